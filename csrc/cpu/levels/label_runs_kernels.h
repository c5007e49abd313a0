// Runs and segments of a tile: what is compiled per level.
#pragma once

#include "cpu/level.h"
#include "cpu/tile.h"

namespace dhvt {

// What one tile knows of one segment, apart from the features.
struct SegmentShape {
  int64_t sum_y, sum_x;
  int32_t count, boundary;
  int32_t box[4];
};

DHVT_PER_LEVEL(
    // The runs of a tile in raster order, and the labels of its slots.
    void find_runs(const LabelMap& labels, const Tile& tile, TileRuns& out);
    // The same, with the shapes of the slots.
    void find_shapes(const LabelMap& labels, const Tile& tile, TileRuns& out, SegmentShape* shapes);)

}  // namespace dhvt
