// Sums of colours over segments: what is compiled per level.
#pragma once

#include <cstdint>

#include "cpu/level.h"

namespace dhvt {

constexpr int64_t kPlaceSums = 6, kColorSums = 4;  // n, y, x, yy, yx, xx; and of each channel c, yc, xc, cc

// Adds row y of an image, whose channels lie `stride` apart, to the rows of `sums` [segments, 6 + 4 channels].
DHVT_PER_LEVEL(void add_color_sums(const uint8_t* image, int64_t stride, int64_t channels, const int32_t* labels,
                                   int64_t y, int64_t width, int64_t segments, int64_t* sums);)

}  // namespace dhvt
