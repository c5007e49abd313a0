// The lattice between the pixels of a label map: which of the four edges at a point are boundaries of segments.
#pragma once

#include <cstdint>

#include "macros.h"

namespace dhvt {

// Directions on the lattice, clockwise in the image: 0 right, 1 down, 2 left, 3 up. An edge is bit 1 << direction.
constexpr uint8_t kJunction = 16;  // three or four boundaries meet

// Of the point between four labels. Every negative label is the same: no segment.
DHVT_HD uint8_t lattice_point(int32_t above_left, int32_t above_right, int32_t below_left, int32_t below_right) {
  const int32_t nw = above_left < 0 ? -1 : above_left, ne = above_right < 0 ? -1 : above_right;
  const int32_t sw = below_left < 0 ? -1 : below_left, se = below_right < 0 ? -1 : below_right;
  const int32_t right = ne != se, down = se != sw, left = sw != nw, up = nw != ne;
  return static_cast<uint8_t>(right | down << 1 | left << 2 | up << 3 |
                              (right + down + left + up > 2 ? int32_t{kJunction} : 0));
}

}  // namespace dhvt
