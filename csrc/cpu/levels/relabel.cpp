#include "cpu/levels/relabel_kernels.h"

#include <algorithm>

namespace dhvt::DHVT_LEVEL {

void relabel_pixels(const int32_t* __restrict labels, int64_t pixels, const int32_t* __restrict table, int64_t size,
                    int32_t* __restrict out) {
  if (size == 0) {
    std::fill_n(out, pixels, int32_t(-1));
    return;
  }
  const int32_t end = int32_t(std::min<int64_t>(size, INT32_MAX));
  for (int64_t i = 0; i < pixels; ++i) {
    const int32_t label = labels[i], keep = -int32_t((label >= 0) & (label < end));
    out[i] = table[label & keep] | ~keep;  // without branches, so that it is a gather
  }
}

}  // namespace dhvt::DHVT_LEVEL
