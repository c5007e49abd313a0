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

}  // namespace dhvt
