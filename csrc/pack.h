// Which row goes where between padded and ragged tokens, shared by every device.
#pragma once

#include <cstdint>

#include "macros.h"

namespace dhvt {

// The sequence of row t: the last b with offset[b] <= t, by bisection; always in [0, batch), whatever the offsets hold.
DHVT_HD int64_t sequence_of(const int32_t* offset, int64_t batch, int64_t t) {
  int64_t low = 0, high = batch;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (offset[middle] <= t)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// The row of a padded [B,K,...] array that fills ragged row t, as b * K + i; -1 where there is none.
DHVT_HD int64_t padded_row(const int32_t* offset, int64_t batch, int64_t capacity, int64_t t) {
  const int64_t b = sequence_of(offset, batch, t), i = t - int64_t(offset[b]);
  return i >= 0 && i < capacity && t < offset[b + 1] ? b * capacity + i : -1;
}

// The ragged row, of `total`, that fills element i of sequence b; -1 where there is none.
DHVT_HD int64_t ragged_row(const int32_t* offset, int64_t b, int64_t i, int64_t total) {
  const int64_t t = int64_t(offset[b]) + i;
  return t >= 0 && t < total && t < offset[b + 1] ? t : -1;
}

// Which input row fills an output row, -1 for none: of `pack`, `unpack` and `pad`.
struct PackedRow {
  const int32_t* offset;  // [B+1]
  int64_t batch, capacity;

  DHVT_HD int64_t operator()(int64_t row) const { return batch == 0 ? -1 : padded_row(offset, batch, capacity, row); }
};

struct UnpackedRow {
  const int32_t* offset;  // [B+1]
  int64_t length, total;

  DHVT_HD int64_t operator()(int64_t row) const { return ragged_row(offset, row / length, row % length, total); }
};

struct PaddedRow {
  const int32_t* count;  // [B]
  int64_t capacity, length;

  DHVT_HD int64_t operator()(int64_t row) const {
    const int64_t b = row / length, i = row % length;
    return i < count[b] && i < capacity ? b * capacity + i : -1;
  }
};

}  // namespace dhvt
