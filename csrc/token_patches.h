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

// A box (ymin, xmin, ymax, xmax) without pixels.
DHVT_HD bool is_empty(const int32_t* box) { return box[2] < box[0] || box[3] < box[1]; }

// One sample on its own: its two pixels, clamped to the image, and the share of the second. Numbers of 32 bits are
// divided where they suffice: in a tenth of the time on a GPU.
template <typename acc>
struct Sample {
  int64_t low, high;
  acc share;
};

template <typename acc>
DHVT_HD Sample<acc> sample_at(int32_t first, int32_t last, int64_t size, int64_t i, int64_t limit) {
  const uint64_t extent = uint64_t(int64_t(last) - int64_t(first));
  const uint64_t numerator = size == 1 ? extent : extent * uint64_t(i),
                 denominator = size == 1 ? 2 : uint64_t(size - 1);
  uint64_t whole;
  if ((numerator | denominator) >> 32)
    whole = numerator / denominator;
  else
    whole = uint32_t(numerator) / uint32_t(denominator);
  const uint64_t remainder = numerator - whole * denominator;
  const int64_t position = first + int64_t(whole);
  return {clamp_index(position, limit), clamp_index(position + (remainder > 0), limit),
          acc(remainder) / acc(denominator)};
}

// The first and one past the last of the samples that may touch pixel p of an axis.
struct SampleRange {
  int64_t begin, end;
};

DHVT_HD SampleRange samples_near(int32_t first, int32_t last, int64_t size, int64_t p, int64_t limit) {
  const int64_t extent = int64_t(last) - int64_t(first);
  const auto from = [=](int64_t pixel) {  // the first sample that lies at `pixel` or after it
    if (pixel <= first) return int64_t(0);
    if (size == 1) return int64_t(2 * (pixel - first) > extent);
    if (pixel > last) return size;
    return ((pixel - first) * (size - 1) + extent - 1) / extent;
  };
  // Those outside the image belong to its border.
  return {p == 0 ? 0 : from(p - 1), p == limit - 1 ? size : from(p + 1)};
}

// (1 - t) a + t b; exactly a for t = 0, even where b is not finite.
template <typename T>
DHVT_HD T mix(T a, T b, T t) {
  return t > 0 ? (T(1) - t) * a + t * b : a;
}

}  // namespace dhvt
