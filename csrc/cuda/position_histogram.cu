// The share of each segment's pixels in each cell of a grid.
#include "position_histogram_host.h"

#include "cuda/launch.cuh"
#include "cuda/warp.cuh"

namespace dhvt {
namespace {

// One block per cell of the grid and image: it alone writes that cell of every histogram. Threads take the cell's
// pixels in raster order, so that neighbours mostly have one label: a warp adds each label's pixels at once. Whole
// numbers, so the order does not matter. Reads 4 bytes per pixel.
__global__ void __launch_bounds__(kThreads)
    count_cells_kernel(const int32_t* __restrict__ labels /* [B,H,W] */, const int32_t* __restrict__ sizes /* [B,2] */,
                       int64_t batch, int64_t full_height, int64_t full_width, int64_t num_segments,
                       int64_t grid_height, int64_t grid_width, int32_t* __restrict__ counts /* [B,K,gh,gw] */) {
  const int64_t cells = grid_height * grid_width;
  for (int64_t cell = blockIdx.x; cell < batch * cells; cell += gridDim.x) {
    const int64_t b = cell / cells, gy = cell % cells / grid_width, gx = cell % grid_width;
    const int64_t height = true_size(sizes, 2 * b, full_height), width = true_size(sizes, 2 * b + 1, full_width);
    const int64_t top = cell_begin(gy, grid_height, height), left = cell_begin(gx, grid_width, width);
    const int64_t columns = cell_begin(gx + 1, grid_width, width) - left;
    const int64_t pixels = (cell_begin(gy + 1, grid_height, height) - top) * columns;
    int32_t* of_cell = counts + b * num_segments * cells + cell % cells;
    for (int64_t i = threadIdx.x; i < round_up(pixels, 32); i += kThreads) {
      int32_t k = -1;
      if (i < pixels) k = labels[(b * full_height + top + i / columns) * full_width + left + i % columns];
      const unsigned same = __match_any_sync(kAllLanes, k);
      if (k >= 0 && k < num_segments && leads(same)) atomicAdd(of_cell + k * cells, __popc(same));
    }
  }
}

// One warp per segment; reads the counts twice, from the cache.
__global__ void __launch_bounds__(kThreads)
    share_cells_kernel(const int32_t* __restrict__ counts, float* __restrict__ shares, int64_t segments,
                       int64_t cells) {
  const int64_t warps = int64_t(gridDim.x) * (kThreads / 32);
  for (int64_t s = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32; s < segments; s += warps) {
    int32_t total = 0;
    for (int64_t i = lane(); i < cells; i += 32) total += counts[s * cells + i];
    total = warp_sum(total);
    const float divisor = static_cast<float>(total > 1 ? total : 1);
    for (int64_t i = lane(); i < cells; i += 32)
      shares[s * cells + i] = static_cast<float>(counts[s * cells + i]) / divisor;
  }
}

Tensor position_histogram(const Tensor& labels, const std::optional<Tensor>& sizes, int64_t num_segments,
                          int64_t grid_height, int64_t grid_width) {
  const Launcher launch(labels);
  return position_histogram_checked(
      labels, sizes, num_segments, grid_height, grid_width,
      [&](const Tensor& labels, const int32_t* sizes, const Tensor& counts) {
        launch(count_cells_kernel, blocks_for(labels.size(0) * grid_height * grid_width), dim3(kThreads), 0,
               data<int32_t>(labels), sizes, labels.size(0), labels.size(1), labels.size(2), num_segments, grid_height,
               grid_width, mutable_data<int32_t>(counts));
      },
      [&](const int32_t* counts, float* shares, int64_t segments, int64_t cells) {
        launch(share_cells_kernel, blocks_for((segments + kThreads / 32 - 1) / (kThreads / 32)), dim3(kThreads), 0,
               counts, shares, segments, cells);
      });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) { m.impl("position_histogram", TORCH_BOX(&dhvt::position_histogram)); }
