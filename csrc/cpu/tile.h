// What a task of the reductions over a label map reads and leaves: a tile of an image, its runs and its segments.
#pragma once

#include <cstdint>

namespace dhvt {

constexpr int64_t kTileColumns = 512;  // the most columns of a tile

// Rows [top, bottom) and columns [left, right) of image b.
struct Tile {
  int64_t image, top, bottom, left, right;

  int64_t width() const { return right - left; }
  int64_t pixels() const { return (bottom - top) * width(); }
};

// Consecutive pixels of one row of a tile with the same label in [0, K). The slots of a tile number its segments in the
// order in which they occur.
struct Run {
  int32_t slot, y, x, length;
};

// label -> slot for one tile at a time; a stamp that changes with the tile makes clearing free.
struct SlotEntry {
  uint32_t stamp;
  int32_t slot;
};

// A label map [H,W] of one image, with the labels in [0, limit) in use.
struct LabelMap {
  const int32_t* data;
  int64_t height, width;
  uint32_t limit;

  const int32_t* row(int64_t y) const { return data + y * width; }
};

// What `find_runs` fills: room for every pixel of a tile in each array.
struct TileRuns {
  Run* runs;
  int32_t* labels;  // [slots]: the label of each slot
  SlotEntry* table;
  uint32_t stamp;
  int64_t num_runs, num_slots;
};

}  // namespace dhvt
