// The rule of the maximum over a segment, shared by every device.
#pragma once

#include <cstdint>

#include "macros.h"

namespace dhvt {

// Whether `value` replaces `best`, seen earlier in raster order (index < 0: none yet). NaN wins, as in torch.max; on
// ties the earlier pixel stays.
template <typename T>
DHVT_HD bool takes_over(T value, T best, int32_t index) {
  return (index < 0) | (!(value <= best) & (best == best));
}

// The same rule for pixels that are not met in raster order: whether (value, index) replaces (best, best_index), where
// a best_index < 0 means none yet. index >= 0.
template <typename T>
DHVT_HD bool comes_before(T value, int32_t index, T best, int32_t best_index) {
  if (best_index < 0) return true;
  if (best != best) return value != value && index < best_index;
  return !(value <= best) || (value == best && index < best_index);
}

}  // namespace dhvt
