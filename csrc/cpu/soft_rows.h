// What the soft operators hand to the code of the levels.
#pragma once

#include "cpu/soft_scratch.h"

namespace dhvt {

// The centres of an image.
template <typename acc>
struct CenterView {
  const acc* centers;    // [L,C]
  const acc* positions;  // [L,2]
  const acc* mass;       // [L] or null: all are candidates
  int64_t channels;
};

// Pixels of a row of cells, cell after cell, row after row in a cell.
template <typename acc>
struct CellMajorRow {
  acc* features;  // [C, pixels of a cell] of each cell, 0 for pixels that take no part
  int64_t channels;
  uint8_t* codes;  // per pixel, only of cells that are not whole
  bool* whole;     // per column: all pixels take part
};

// Numbers of a centre, rounded up for vectors.
constexpr int64_t record_size(int64_t entries) { return (entries + 7) / 8 * 8; }

}  // namespace dhvt
