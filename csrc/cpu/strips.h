// Reductions over a label map: strips of pixels, runs of equal labels, and a combination in fixed order.
//
// An image is cut into strips of consecutive pixels in raster order. Each strip is one task: it finds its runs
// (consecutive pixels of one row with one label) and gives every label that occurs a slot, so only labels that occur
// cost anything, whatever K is. The kernel accumulates run by run into its slots; `combine` then visits, for every
// segment, the strips that hold it from first to last. Nothing depends on the number of threads, or on the batch.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "../common.h"

namespace dhvt {

// Consecutive pixels of one row with the same label, as offsets inside the strip.
struct Run {
  int32_t begin, length, slot;
};

struct StripPlan {
  int64_t batch, pixels, width;  // pixels = H * W of one image
  int64_t strip_pixels, strips_per_image;

  int64_t count() const { return batch * strips_per_image; }
  int64_t image(int64_t strip) const { return strip / strips_per_image; }
  // First and last pixel + 1 of a strip, in the raster order of its image.
  int64_t begin(int64_t strip) const { return strip % strips_per_image * strip_pixels; }
  int64_t end(int64_t strip) const { return std::min(begin(strip) + strip_pixels, pixels); }
};

// Strips of about 64 K elements: enough for every core on one photograph, few enough that combining them is free.
inline StripPlan plan_strips(int64_t batch, int64_t height, int64_t width, int64_t channels) {
  const int64_t strip_pixels = std::clamp<int64_t>(65536 / std::max<int64_t>(channels, 1), 512, 4096);
  return {batch, height * width, width, strip_pixels, (height * width + strip_pixels - 1) / strip_pixels};
}

// label -> slot for one strip at a time; a stamp makes clearing free. calloc touches only the pages that are used.
class SlotTable {
 public:
  explicit SlotTable(int64_t num_segments)
      : num_segments_(num_segments),
        entries_(static_cast<Entry*>(std::calloc(std::max<int64_t>(num_segments, 1), sizeof(Entry)))) {
    if (!entries_) throw std::bad_alloc();
  }

  void next_strip() { ++stamp_; }

  // The slot of a label, -1 for a label outside [0, K). `labels` lists the labels by slot.
  int32_t find(int32_t label, std::vector<int32_t>& labels) {
    if (label < 0 || label >= num_segments_) return -1;
    Entry& entry = entries_.get()[label];
    if (entry.stamp != stamp_) {
      entry = {stamp_, static_cast<int32_t>(labels.size())};
      labels.push_back(label);
    }
    return entry.slot;
  }

 private:
  struct Entry {
    uint32_t stamp;
    int32_t slot;
  };
  struct Free {
    void operator()(Entry* entries) const { std::free(entries); }
  };
  int64_t num_segments_;
  uint32_t stamp_ = 0;
  std::unique_ptr<Entry, Free> entries_;
};

// Whether any of four labels differs from `label`.
inline bool differs4(const int32_t* labels, int32_t label) {
  return ((labels[0] ^ label) | (labels[1] ^ label)) | ((labels[2] ^ label) | (labels[3] ^ label));
}

using StripLabels = std::vector<std::vector<int32_t>>;  // [strips][slots]: the label of each slot

// One task per strip: finds the runs and slots, then calls body(strip, runs, labels of the slots). label [B,H,W].
template <typename Body>
StripLabels for_each_strip(const StripPlan& plan, const int32_t* label, int64_t num_segments, const Body& body) {
  StripLabels strip_labels(plan.count());
  torch::stable::parallel_for(0, plan.count(), 1, [&](int64_t first, int64_t last) {
    SlotTable table(num_segments);
    std::vector<Run> runs;
    for (int64_t strip = first; strip < last; ++strip) {
      table.next_strip();
      runs.clear();
      std::vector<int32_t>& labels = strip_labels[strip];
      const int64_t begin = plan.begin(strip), length = plan.end(strip) - begin;
      const int32_t* of_pixel = label + plan.image(strip) * plan.pixels + begin;
      int64_t row_end = plan.width - begin % plan.width;  // first pixel of the next row
      for (int64_t i = 0; i < length;) {
        const int64_t limit = std::min(row_end, length);
        const int32_t current = of_pixel[i];
        int64_t end = i + 1;
        while (end + 4 <= limit && !differs4(of_pixel + end, current)) end += 4;
        while (end < limit && of_pixel[end] == current) ++end;
        const int32_t slot = table.find(current, labels);
        if (slot >= 0) runs.push_back({static_cast<int32_t>(i), static_cast<int32_t>(end - i), slot});
        i = end;
        if (i == row_end) row_end += plan.width;
      }
      body(strip, static_cast<const std::vector<Run>&>(runs), static_cast<const std::vector<int32_t>&>(labels));
    }
  });
  return strip_labels;
}

// Calls body(b, k, strip, slot) for every slot of every strip; for one segment always from the first strip to the last.
// One task per image and range of segments.
template <typename Body>
void combine(const StripPlan& plan, const StripLabels& strip_labels, int64_t num_segments, const Body& body) {
  const int64_t range = std::max<int64_t>(256, (num_segments + 7) / 8);
  const int64_t ranges = (num_segments + range - 1) / range;
  parallel(plan.batch * ranges, [&](int64_t task) {
    const int64_t b = task / ranges, first = task % ranges * range, last = first + range;
    for (int64_t strip = b * plan.strips_per_image; strip < (b + 1) * plan.strips_per_image; ++strip) {
      const std::vector<int32_t>& labels = strip_labels[strip];
      for (size_t slot = 0; slot < labels.size(); ++slot)
        if (labels[slot] >= first && labels[slot] < last)
          body(b, static_cast<int64_t>(labels[slot]), strip, static_cast<int64_t>(slot));
    }
  });
}

}  // namespace dhvt
