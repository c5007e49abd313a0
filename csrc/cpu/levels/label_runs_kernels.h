// Runs and segments of a tile: what is compiled per level.
#pragma once

#include "cpu/level.h"
#include "cpu/tile.h"

namespace dhvt {

// What one tile knows of one segment, apart from the features; positions are relative to the tile's first pixel. Pairs
// of numbers below 2^31 are added as one: the first in the lower half.
struct SegmentShape {
  uint64_t count_boundary, sum_y_twice_sum_x;
  int32_t box[4];

  int32_t count() const { return static_cast<int32_t>(count_boundary); }
  int32_t boundary() const { return static_cast<int32_t>(count_boundary >> 32); }
  int32_t sum_y() const { return static_cast<int32_t>(sum_y_twice_sum_x); }
  int32_t sum_x() const { return static_cast<int32_t>(sum_y_twice_sum_x >> 33); }
};

DHVT_PER_LEVEL(
    // The runs of a tile in raster order, and the labels of its slots.
    void find_runs(const LabelMap& labels, const Tile& tile, TileRuns& out);
    // The same, with the shapes of the slots.
    void find_shapes(const LabelMap& labels, const Tile& tile, TileRuns& out, SegmentShape* shapes);)

}  // namespace dhvt
