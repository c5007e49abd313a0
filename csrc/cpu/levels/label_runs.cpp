#include "cpu/levels/label_runs.h"

#include <algorithm>

#include "cpu/levels/label_runs_kernels.h"

namespace dhvt::DHVT_LEVEL {

void find_runs(const LabelMap& labels, const Tile& tile, TileRuns& out) {
  out.num_runs = out.num_slots = 0;
  TileRuns local = out;
  for (int64_t y = tile.top; y < tile.bottom; ++y) {
    const int32_t* row = labels.row(y);
    for_each_run(row, tile.left, tile.right, [&](int64_t x, int64_t end) {
      if (static_cast<uint32_t>(row[x]) >= labels.limit) return;
      local.runs[local.num_runs++] = {slot_of(local, row[x]), static_cast<int32_t>(y), static_cast<int32_t>(x),
                                      static_cast<int32_t>(end - x)};
    });
  }
  out = local;
}

namespace {

constexpr int64_t kWords = kTileColumns / 64;

// A row of a tile, one bit per pixel: whether the pixel below has another label, and whether its own is valid. Beyond
// the border the row itself is taken: no difference.
struct RowBits {
  uint64_t differs_below[kWords], valid[kWords];

  void read(const LabelMap& labels, const Tile& tile, int64_t y) {
    const int32_t* here = labels.row(std::clamp<int64_t>(y, 0, labels.height - 1));
    const int32_t* below = labels.row(std::clamp<int64_t>(y + 1, 0, labels.height - 1));
    for (int64_t x = tile.left, w = 0; x < tile.right; x += 64, ++w) {
      const int64_t n = std::min<int64_t>(64, tile.right - x);
      differs_below[w] = differ_bits(here + x, below + x, n);
      valid[w] = valid_bits(here + x, labels.limit, n);
    }
  }
};

// The runs of a row of a tile, in arrays that vectors can work on. Positions are relative to the tile.
struct RowRuns {
  int64_t count = 0;
  int32_t end[kTileColumns + 1];          // [0] = 0, then where each run ends
  int32_t crossings[kTileColumns + 1];    // the row's pixels up to there with another segment above, and below
  int32_t label[kTileColumns + 2];        // of each run, and of the neighbours of the first and the last
  uint64_t count_boundary[kTileColumns];  // what each run adds to its segment's shape
  uint64_t sum_y_twice_sum_x[kTileColumns];

  void find(const int32_t* row, const Tile& tile, const RowBits& above, const RowBits& here, const RowBits& below) {
    int32_t before = 0;
    count = end[0] = crossings[0] = 0;
    for (int64_t x = 0, w = 0; x < tile.width(); x += 64, ++w) {
      const int64_t n = std::min<int64_t>(64, tile.width() - x);
      const uint64_t up = above.differs_below[w] & above.valid[w], down = here.differs_below[w] & below.valid[w];
      for (uint64_t ends = run_ends(row + x, n, x + n == tile.width()); ends != 0; ends &= ends - 1) {
        const uint64_t until = ends ^ (ends - 1);
        ++count;
        end[count] = static_cast<int32_t>(x + std::countr_zero(ends) + 1);
        crossings[count] = before + std::popcount(up & until) + std::popcount(down & until);
      }
      before += std::popcount(up) + std::popcount(down);
    }
  }

  void measure(const int32_t* row, const LabelMap& labels, const Tile& tile, int32_t dy) {
    for (int64_t r = 0; r < count; ++r) label[r + 1] = row[end[r]];
    label[0] = tile.left > 0 ? row[-1] : -1;
    label[count + 1] = tile.right < labels.width ? row[tile.width()] : -1;
    const auto meet = [limit = labels.limit](int32_t a, int32_t b) {
      return uint32_t(a != b) & uint32_t(uint32_t(a) < limit) & uint32_t(uint32_t(b) < limit);
    };
    for (int64_t r = 0; r < count; ++r) {
      const uint32_t size = end[r + 1] - end[r], twice_x = end[r] + end[r + 1] - 1;
      const uint32_t boundary =
          crossings[r + 1] - crossings[r] + meet(label[r], label[r + 1]) + meet(label[r + 1], label[r + 2]);
      count_boundary[r] = size | uint64_t(boundary) << 32;
      sum_y_twice_sum_x[r] = dy * size | uint64_t(twice_x * size) << 32;
    }
  }
};

}  // namespace

void find_shapes(const LabelMap& labels, const Tile& tile, TileRuns& out, SegmentShape* shapes) {
  out.num_runs = out.num_slots = 0;
  TileRuns local = out;
  RowRuns runs;
  RowBits bits[3], *above = bits, *here = bits + 1, *below = bits + 2;
  above->read(labels, tile, tile.top - 1);
  here->read(labels, tile, tile.top);
  for (int64_t y = tile.top; y < tile.bottom; ++y) {
    const int32_t* row = labels.row(y) + tile.left;
    const int32_t dy = static_cast<int32_t>(y - tile.top);
    below->read(labels, tile, y + 1);
    runs.find(row, tile, *above, *here, *below);
    runs.measure(row, labels, tile, dy);
    for (int64_t r = 0; r < runs.count; ++r) {
      const int32_t label = runs.label[r + 1];
      if (static_cast<uint32_t>(label) >= labels.limit) continue;
      const int32_t first = runs.end[r], last = runs.end[r + 1] - 1;
      const int64_t known = local.num_slots;
      const int32_t slot = slot_of(local, label);
      local.runs[local.num_runs++] = {slot, static_cast<int32_t>(y), static_cast<int32_t>(tile.left + first),
                                      last - first + 1};
      SegmentShape& shape = shapes[slot];
      if (slot == known) shape = {0, 0, {dy, first, dy, last}};
      shape.count_boundary += runs.count_boundary[r];
      shape.sum_y_twice_sum_x += runs.sum_y_twice_sum_x[r];
      shape.box[1] = std::min(shape.box[1], first);
      shape.box[2] = dy;
      shape.box[3] = std::max(shape.box[3], last);
    }
    std::swap(above, here);
    std::swap(here, below);
  }
  out = local;
}

}  // namespace dhvt::DHVT_LEVEL
