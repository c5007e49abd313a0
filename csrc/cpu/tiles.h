// Reductions over a label map: tiles of pixels, runs of equal labels, and a combination in fixed order.
//
// An image is cut into tiles. Each is one task: it finds its runs (consecutive pixels of one row with one label) and
// gives every label that occurs a slot, so only labels that occur cost anything, whatever K is. The kernel accumulates
// run by run into its slots; `combine` then visits, for every segment, the tiles that hold it from first to last.
// Nothing depends on the number of threads, or on the batch.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "common.h"
#include "cpu/levels/label_runs_kernels.h"

namespace dhvt {

struct TilePlan {
  int64_t batch, height, width;
  int64_t tile_rows, tile_columns, down, across;  // tiles per image: down x across

  int64_t count() const { return batch * down * across; }
  int64_t per_image() const { return down * across; }
  int64_t most_pixels() const { return tile_rows * tile_columns; }

  Tile tile(int64_t index) const {
    const int64_t of_image = index % per_image(), top = of_image / across * tile_rows,
                  left = of_image % across * tile_columns;
    return {index / per_image(), top, std::min(top + tile_rows, height), left, std::min(left + tile_columns, width)};
  }
};

// About 16 tiles per image, so that every core has some; at most kTileColumns, so that the segments that a row meets
// stay in the cache until the next row; at most 16 K pixels.
inline TilePlan plan_tiles(int64_t batch, int64_t height, int64_t width) {
  const auto parts = [](int64_t size, int64_t most) { return (size + most - 1) / most; };
  if (height == 0 || width == 0) return {batch, height, width, 1, 1, 0, 0};
  const int64_t pixels = std::clamp<int64_t>(height * width / 16, 1024, 16384);
  const int64_t columns = (parts(width, parts(width, kTileColumns)) + 15) / 16 * 16;
  const int64_t rows = std::clamp<int64_t>(pixels / std::min(columns, width), 1, height);
  return {batch, height, width, rows, columns, parts(height, rows), parts(width, columns)};
}

template <typename T>
std::unique_ptr<T[]> uninitialized(int64_t size) {
  return std::unique_ptr<T[]>(new T[size]);
}

// Scratch that grows, from a multiple of 64 bytes on; what it held is lost.
class AlignedScratch {
 public:
  char* get(size_t bytes) {
    if (size_ < bytes + 64) {
      size_ = bytes + 64;
      data_ = uninitialized<char>(size_);
    }
    return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(data_.get()) + 63) / 64 * 64);
  }

 private:
  size_t size_ = 0;
  std::unique_ptr<char[]> data_;
};

// The scratch of one worker: runs and slots of one tile at a time. calloc touches only the pages that are used.
class RunScratch {
 public:
  RunScratch(const TilePlan& plan, int64_t num_segments)
      : table_(static_cast<SlotEntry*>(std::calloc(std::max<int64_t>(num_segments, 1), sizeof(SlotEntry)))),
        runs_(uninitialized<Run>(plan.most_pixels())),
        labels_(uninitialized<int32_t>(plan.most_pixels())) {
    if (!table_) throw std::bad_alloc();
  }

  TileRuns next_tile() { return {runs_.get(), labels_.get(), table_.get(), ++stamp_, 0, 0}; }

 private:
  struct Free {
    void operator()(SlotEntry* entries) const { std::free(entries); }
  };
  std::unique_ptr<SlotEntry, Free> table_;
  std::unique_ptr<Run[]> runs_;
  std::unique_ptr<int32_t[]> labels_;
  uint32_t stamp_ = 0;
};

// label [B,H,W] dense
inline LabelMap label_map(const TilePlan& plan, const int32_t* label, int64_t image, int64_t num_segments) {
  return {label + image * plan.height * plan.width, plan.height, plan.width,
          static_cast<uint32_t>(std::min<int64_t>(num_segments, INT32_MAX))};
}

// Calls body(tile, labels of its image) for every tile, one task each. labels [B,H,W] dense
template <typename Body>
void for_each_tile(const Tensor& labels, int64_t num_segments, const Body& body) {
  const TilePlan plan = plan_tiles(labels.size(0), labels.size(1), labels.size(2));
  const int32_t* label = data<int32_t>(labels);
  parallel(plan.count(), [&](int64_t i) {
    const Tile tile = plan.tile(i);
    body(tile, label_map(plan, label, tile.image, num_segments));
  });
}

// What a tile leaves for `combine`: the labels of its slots, and values per slot.
template <typename Value>
struct TileResult {
  int64_t slots = 0;
  int32_t first = 0, last = -1;  // the least and the greatest label
  std::unique_ptr<int32_t[]> labels;
  std::unique_ptr<Value[]> values;

  void reset(const TileRuns& found, int64_t values_per_slot) {
    slots = found.num_slots;
    labels = uninitialized<int32_t>(slots);
    values = uninitialized<Value>(slots * values_per_slot);
    std::copy(found.labels, found.labels + slots, labels.get());
    if (slots == 0) return;
    const auto [least, greatest] = std::minmax_element(found.labels, found.labels + slots);
    first = *least;
    last = *greatest;
  }
};

// Calls body(segment, tile, slot) for every slot of every tile, segment = b K + k; for one segment always from the
// first tile to the last. Then finish(first, last) for the range of segments. One task per image and range.
template <typename Value, typename Body, typename Finish>
void combine(const TilePlan& plan, const std::vector<TileResult<Value>>& results, int64_t num_segments,
             const Body& body, const Finish& finish) {
  const int64_t range = std::max<int64_t>(128, (num_segments + 7) / 8);
  const int64_t ranges = (num_segments + range - 1) / range;
  parallel(plan.batch * ranges, [&](int64_t task) {
    const int64_t b = task / ranges, first = task % ranges * range, last = std::min(first + range, num_segments);
    for (int64_t tile = b * plan.per_image(); tile < (b + 1) * plan.per_image(); ++tile) {
      const TileResult<Value>& result = results[tile];
      if (result.last < first || result.first >= last) continue;
      const int32_t* label = result.labels.get();
      for (int64_t slot = 0; slot < result.slots; ++slot)
        if (label[slot] >= first && label[slot] < last) body(b * num_segments + label[slot], tile, slot);
    }
    finish(b * num_segments + first, b * num_segments + last);
  });
}

}  // namespace dhvt
