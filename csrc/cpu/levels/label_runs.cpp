#include "cpu/levels/label_runs.h"

#include <algorithm>

#include "cpu/levels/label_runs_kernels.h"

namespace dhvt::DHVT_LEVEL {

void find_runs(const LabelMap& labels, const Tile& tile, TileRuns& out) {
  out.num_runs = out.num_slots = 0;
  TileRuns local = out;
  for (int64_t y = tile.top; y < tile.bottom; ++y) {
    const int32_t* row = labels.row(y);
    for_each_run(
        row, tile.left, tile.right, [](int64_t, int64_t) {},
        [&](int64_t x, int64_t end, uint64_t) {
          if (static_cast<uint32_t>(row[x]) >= labels.limit) return;
          local.runs[local.num_runs++] = {slot_of(local, row[x]), static_cast<int32_t>(y), static_cast<int32_t>(x),
                                          static_cast<int32_t>(end - x)};
        });
  }
  out = local;
}

namespace {

// find_runs with the boundary of each run.
void find_outlined_runs(const LabelMap& labels, const Tile& tile, TileRuns& out) {
  constexpr int64_t kWords = kTileColumns / 64;
  TileRuns local = out;
  const uint32_t limit = labels.limit;
  const auto valid = [limit](int32_t label) { return static_cast<uint32_t>(label) < limit; };
  // Bits per pixel of a row: whether the pixel below, or above, has another label; whether labels are valid in the row
  // above, in this row and in the one below. Beyond the border the row itself is taken: no difference.
  uint64_t differs_above[kWords], differs_below[kWords], valid_above[kWords], valid_here[kWords], valid_below[kWords];
  const auto neighbours = [&](int64_t y, uint64_t* differs, uint64_t* is_valid) {
    const int32_t* here = labels.row(std::clamp<int64_t>(y, 0, labels.height - 1));
    const int32_t* below = labels.row(std::clamp<int64_t>(y + 1, 0, labels.height - 1));
    for (int64_t x = tile.left, w = 0; x < tile.right; x += 64, ++w) {
      const int64_t n = std::min<int64_t>(64, tile.right - x);
      differs[w] = differ_bits(here + x, below + x, n);
      is_valid[w] = valid_bits(below + x, limit, n);
    }
  };
  neighbours(tile.top - 2, differs_below, valid_here);
  neighbours(tile.top - 1, differs_below, valid_below);
  for (int64_t y = tile.top; y < tile.bottom; ++y) {
    std::copy(differs_below, differs_below + kWords, differs_above);
    std::copy(valid_here, valid_here + kWords, valid_above);
    std::copy(valid_below, valid_below + kWords, valid_here);
    neighbours(y, differs_below, valid_below);
    const int32_t* row = labels.row(y);
    uint64_t up = 0, down = 0;    // pixels of the word with another segment above, and below
    int32_t pairs = 0, seen = 0;  // such pairs in the words before, and up to the last run's end
    int32_t left_label = tile.left > 0 ? row[tile.left - 1] : -1;
    int32_t* left = nullptr;  // the boundary of the run before in this row
    for_each_run(
        row, tile.left, tile.right,
        [&](int64_t x, int64_t) {
          const int64_t w = (x - tile.left) / 64;
          pairs += std::popcount(up) + std::popcount(down);
          up = differs_above[w] & valid_above[w];
          down = differs_below[w] & valid_below[w];
        },
        [&](int64_t x, int64_t end, uint64_t word) {
          const int32_t label = row[x];
          const int32_t until = pairs + std::popcount(up & word) + std::popcount(down & word), vertical = until - seen;
          seen = until;
          const bool own = valid(label), meets = own & valid(left_label) & (label != left_label);
          if (left) *left += meets;
          left_label = label;
          left = nullptr;
          if (!own) return;
          left = local.boundary + local.num_runs;
          *left = vertical + meets;
          local.runs[local.num_runs++] = {slot_of(local, label), static_cast<int32_t>(y), static_cast<int32_t>(x),
                                          static_cast<int32_t>(end - x)};
        });
    if (left && tile.right < labels.width) *left += valid(row[tile.right]) & (row[tile.right] != left_label);
  }
  out = local;
}

}  // namespace

void find_shapes(const LabelMap& labels, const Tile& tile, TileRuns& out, SegmentShape* shapes) {
  out.num_runs = out.num_slots = 0;
  find_outlined_runs(labels, tile, out);
  int32_t known = 0;
  for (int64_t r = 0; r < out.num_runs; ++r) {
    const Run run = out.runs[r];
    const int32_t last = run.x + run.length - 1;
    SegmentShape& shape = shapes[run.slot];
    if (run.slot == known) {
      ++known;
      shape = {0, 0, 0, 0, {run.y, run.x, run.y, last}};
    }
    shape.sum_y += int64_t(run.y) * run.length;
    shape.sum_x += int64_t(run.x + last) * run.length;  // twice the sum
    shape.count += run.length;
    shape.boundary += out.boundary[r];
    shape.box[1] = std::min(shape.box[1], run.x);
    shape.box[2] = run.y;
    shape.box[3] = std::max(shape.box[3], last);
  }
  for (int64_t slot = 0; slot < out.num_slots; ++slot) shapes[slot].sum_x /= 2;
}

}  // namespace dhvt::DHVT_LEVEL
