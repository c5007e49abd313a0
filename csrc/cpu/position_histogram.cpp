// The share of each segment's pixels in each cell of a grid.
#include "../position_histogram.h"

#include <algorithm>

#include "../common.h"

namespace dhvt {
namespace {

// One task per image and row of cells: it alone writes that row of every histogram, so nothing has to be combined.
// Counts whole numbers. Reads 4 bytes per pixel. label [B,H,W], true_size [B,2] or null -> counts [B,K,gh,gw], zero on
// entry.
void count_cells(const Tensor& labels, const int32_t* true_size, int64_t num_segments, int64_t grid_height,
                 int64_t grid_width, int32_t* counts) {
  const int64_t stride = labels.size(2), cells = grid_height * grid_width;
  const int32_t* label = data<int32_t>(labels);
  parallel(labels.size(0) * grid_height, [&](int64_t task) {
    const int64_t b = task / grid_height, gy = task % grid_height;
    const int64_t height = true_size ? std::clamp<int64_t>(true_size[2 * b], 0, labels.size(1)) : labels.size(1);
    const int64_t width = true_size ? std::clamp<int64_t>(true_size[2 * b + 1], 0, stride) : stride;
    int32_t* histogram = counts + b * num_segments * cells + gy * grid_width;
    for (int64_t y = cell_begin(gy, grid_height, height); y < cell_begin(gy + 1, grid_height, height); ++y) {
      const int32_t* row = label + (b * labels.size(1) + y) * stride;
      int64_t x = 0;
      for (int64_t gx = 0; gx < grid_width; ++gx) {
        const int64_t limit = cell_begin(gx + 1, grid_width, width);
        while (x < limit) {
          const int64_t begin = x;
          const int32_t k = row[x];
          while (++x < limit && row[x] == k) {
          }
          if (k >= 0 && k < num_segments) histogram[k * cells + gx] += static_cast<int32_t>(x - begin);
        }
      }
    }
  });
}

Tensor position_histogram(const Tensor& labels, const std::optional<Tensor>& sizes, int64_t num_segments,
                          int64_t grid_height, int64_t grid_width) {
  check(labels, "labels [B,H,W]", ScalarType::Int, {-1, -1, -1});
  check(sizes, "sizes [B,2]", ScalarType::Int, {labels.size(0), 2});
  STD_TORCH_CHECK(num_segments >= 0 && grid_height >= 1 && grid_width >= 1,
                  "num_segments, grid: expected a number >= 0 and cells >= 1");
  const int64_t cells = grid_height * grid_width;
  Tensor counts = zeros({labels.size(0), num_segments, grid_height, grid_width}, ScalarType::Int, labels);
  Tensor out = empty({labels.size(0), num_segments, grid_height, grid_width}, ScalarType::Float, labels);
  const Tensor dense_labels = dense(labels);
  const std::optional<Tensor> dense_sizes = dense(sizes);
  int32_t* count = mutable_data<int32_t>(counts);
  float* share = mutable_data<float>(out);
  count_cells(dense_labels, data<int32_t>(dense_sizes), num_segments, grid_height, grid_width, count);
  parallel(
      labels.size(0) * num_segments,
      [&](int64_t segment) {
        const int32_t* of_segment = count + segment * cells;
        int64_t total = 0;
        for (int64_t i = 0; i < cells; ++i) total += of_segment[i];
        const float divisor = static_cast<float>(std::max<int64_t>(total, 1));
        for (int64_t i = 0; i < cells; ++i) share[segment * cells + i] = static_cast<float>(of_segment[i]) / divisor;
      },
      64);
  return out;
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("position_histogram", TORCH_BOX(&dhvt::position_histogram)); }
