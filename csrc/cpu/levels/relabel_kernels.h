// Looking labels up in a table: what is compiled per level.
#pragma once

#include <cstdint>

#include "cpu/level.h"

namespace dhvt {

// out[i] = table[labels[i]], -1 for a label outside [0, size).
DHVT_PER_LEVEL(void relabel_pixels(const int32_t* labels, int64_t pixels, const int32_t* table, int64_t size,
                                   int32_t* out);)

}  // namespace dhvt
