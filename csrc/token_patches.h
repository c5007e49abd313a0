// Where the samples of a box lie, and how two pixels are mixed, shared by every device.
#pragma once

#include <cstdint>

#include "macros.h"

namespace dhvt {

// The samples of [first, last] along one axis: sample i lies at first + i * (last - first) / (size - 1), for size = 1
// in the middle. Whole numbers carry the position, so that a box of `size` pixels is copied exactly; they are advanced
// by one sample at a time, which needs no division.
struct AxisWalk {
  int64_t position, remainder, step, step_remainder, denominator;

  DHVT_HD void advance() {
    position += step;
    remainder += step_remainder;
    if (remainder >= denominator) {
      remainder -= denominator;
      ++position;
    }
  }
};

DHVT_HD AxisWalk axis_walk(int32_t first, int32_t last, int64_t size) {
  const int64_t extent = int64_t(last) - int64_t(first);
  if (size == 1) return {first + extent / 2, extent % 2, 0, 0, 2};
  return {first, 0, extent / (size - 1), extent % (size - 1), size - 1};
}

DHVT_HD int64_t clamp_index(int64_t i, int64_t size) { return i < 0 ? 0 : i < size ? i : size - 1; }

// (1 - t) a + t b; exactly a for t = 0, even where b is not finite.
template <typename T>
DHVT_HD T mix(T a, T b, T t) {
  return t > 0 ? (T(1) - t) * a + t * b : a;
}

}  // namespace dhvt
