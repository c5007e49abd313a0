// The share of each segment's pixels in each cell of a grid.
#include "position_histogram_host.h"

#include <algorithm>

namespace dhvt {
namespace {

// One task per image and row of cells: it alone writes that row of every histogram, so nothing has to be combined.
// Counts whole numbers. Reads 4 bytes per pixel.
void count_cells(const Tensor& labels, const int32_t* sizes, const Tensor& counts) {
  const int64_t num_segments = counts.size(1), grid_height = counts.size(2), grid_width = counts.size(3);
  const int64_t stride = labels.size(2), cells = grid_height * grid_width;
  const int32_t* label = data<int32_t>(labels);
  int32_t* count = mutable_data<int32_t>(counts);
  parallel(labels.size(0) * grid_height, [&](int64_t task) {
    const int64_t b = task / grid_height, gy = task % grid_height;
    const int64_t height = true_size(sizes, 2 * b, labels.size(1)), width = true_size(sizes, 2 * b + 1, stride);
    int32_t* histogram = count + b * num_segments * cells + gy * grid_width;
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

void share_cells(const int32_t* count, float* share, int64_t segments, int64_t cells) {
  parallel(
      segments,
      [&](int64_t segment) {
        const int32_t* of_segment = count + segment * cells;
        int64_t total = 0;
        for (int64_t i = 0; i < cells; ++i) total += of_segment[i];
        const float divisor = static_cast<float>(std::max<int64_t>(total, 1));
        for (int64_t i = 0; i < cells; ++i) share[segment * cells + i] = static_cast<float>(of_segment[i]) / divisor;
      },
      64);
}

Tensor position_histogram(const Tensor& labels, const std::optional<Tensor>& sizes, int64_t num_segments,
                          int64_t grid_height, int64_t grid_width) {
  return position_histogram_checked(labels, sizes, num_segments, grid_height, grid_width, count_cells, share_cells);
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("position_histogram", TORCH_BOX(&dhvt::position_histogram)); }
