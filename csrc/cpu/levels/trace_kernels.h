// Tracing boundaries: what is compiled per level.
#pragma once

#include <cstdint>

#include "cpu/level.h"

namespace dhvt {

// flags[x] = lattice_point(...) of the width + 1 points between two rows of labels; left and right of them is none.
DHVT_PER_LEVEL(void lattice_row(const int32_t* above, const int32_t* below, int64_t width, uint8_t* flags);)

}  // namespace dhvt
