// One row of one channel of an image, to and from contiguous scratch.
#pragma once

#include <cstdint>

#include "macros.h"

namespace dhvt {

template <typename scalar_t, typename acc>
DHVT_HD void load_row(const scalar_t* source, int64_t stride, int64_t size, acc* out) {
  if (stride == 1)
    for (int64_t x = 0; x < size; ++x) out[x] = acc(source[x]);
  else
    for (int64_t x = 0; x < size; ++x) out[x] = acc(source[x * stride]);
}

template <typename scalar_t, typename acc>
DHVT_HD void store_row(const acc* row, int64_t stride, int64_t size, scalar_t* out) {
  if (stride == 1)
    for (int64_t x = 0; x < size; ++x) out[x] = scalar_t(row[x]);
  else
    for (int64_t x = 0; x < size; ++x) out[x * stride] = scalar_t(row[x]);
}

}  // namespace dhvt
