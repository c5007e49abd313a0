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

void find_shapes(const LabelMap& labels, const Tile& tile, TileRuns& out, SegmentShape* shapes) {
  out.num_runs = out.num_slots = 0;
  TileRuns local = out;
  const auto valid = [&](int32_t label) { return static_cast<uint32_t>(label) < labels.limit; };
  for (int64_t y = tile.top; y < tile.bottom; ++y) {
    const int32_t* row = labels.row(y);
    const int32_t* above = labels.row(std::max<int64_t>(y - 1, 0));  // beyond the border the row itself: no difference
    const int32_t* below = labels.row(std::min(y + 1, labels.height - 1));
    uint64_t up = 0, down = 0;   // pixels of the word with another segment above, and below
    int64_t pairs = 0, seen = 0;  // such pairs in the words before, and up to the last run's end
    int32_t left_label = tile.left > 0 ? row[tile.left - 1] : -1, left_slot = -1;
    for_each_run(
        row, tile.left, tile.right,
        [&](int64_t x, int64_t n) {
          pairs += std::popcount(up) + std::popcount(down);
          up = differ_bits(row + x, above + x, n) & valid_bits(above + x, labels.limit, n);
          down = differ_bits(row + x, below + x, n) & valid_bits(below + x, labels.limit, n);
        },
        [&](int64_t x, int64_t end, uint64_t word) {
          const int32_t label = row[x];
          const int64_t until = pairs + std::popcount(up & word) + std::popcount(down & word);
          const int32_t vertical = static_cast<int32_t>(until - seen);
          seen = until;
          const bool own = valid(label), meets = own & valid(left_label) & (label != left_label);
          if (left_slot >= 0) shapes[left_slot].boundary += meets;
          left_label = label;
          left_slot = -1;
          if (!own) return;
          const int32_t known = static_cast<int32_t>(local.num_slots), slot = slot_of(local, label);
          const int32_t length = static_cast<int32_t>(end - x), last = static_cast<int32_t>(end - 1);
          local.runs[local.num_runs++] = {slot, static_cast<int32_t>(y), static_cast<int32_t>(x), length};
          left_slot = slot;
          SegmentShape& shape = shapes[slot];
          if (slot == known)
            shape = {0, 0, 0, 0, {static_cast<int32_t>(y), static_cast<int32_t>(x), static_cast<int32_t>(y), last}};
          shape.sum_y += y * length;
          shape.sum_x += (x + last) * length / 2;
          shape.count += length;
          shape.boundary += vertical + meets;
          shape.box[1] = std::min(shape.box[1], static_cast<int32_t>(x));
          shape.box[2] = static_cast<int32_t>(y);
          shape.box[3] = std::max(shape.box[3], last);
        });
    if (left_slot >= 0 && tile.right < labels.width)
      shapes[left_slot].boundary += valid(row[tile.right]) & (row[tile.right] != left_label);
  }
  out = local;
}

}  // namespace dhvt::DHVT_LEVEL
