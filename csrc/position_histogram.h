// Cells of a grid over an image, in whole numbers, shared by every device.
#pragma once

#include <cstdint>

#include "macros.h"

namespace dhvt {

// The first pixel p of a cell along one axis: the least p with p * cells / size == cell, where the cell has any.
DHVT_HD int64_t cell_begin(int64_t cell, int64_t cells, int64_t size) { return (cell * size + cells - 1) / cells; }

// The true height or width of an image, in [0, full]; `full` where there are no sizes.
DHVT_HD int64_t true_size(const int32_t* sizes, int64_t i, int64_t full) {
  if (!sizes) return full;
  return sizes[i] < 0 ? 0 : sizes[i] < full ? sizes[i] : full;
}

}  // namespace dhvt
