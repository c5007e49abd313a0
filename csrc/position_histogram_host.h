// The position histogram: checks and outputs, shared by every device.
#pragma once

#include "common.h"
#include "position_histogram.h"

namespace dhvt {

// count(labels [B,H,W], sizes [B,2] or null, counts [B,K,gh,gw], zero on entry), then
// share(counts, out [B,K,gh,gw], segments of all images, cells of a grid).
template <typename Count, typename Share>
Tensor position_histogram_checked(const Tensor& labels, const std::optional<Tensor>& sizes, int64_t num_segments,
                                  int64_t grid_height, int64_t grid_width, const Count& count, const Share& share) {
  check(labels, "labels [B,H,W]", ScalarType::Int, {-1, -1, -1});
  check(sizes, "sizes [B,2]", ScalarType::Int, {labels.size(0), 2});
  STD_TORCH_CHECK(num_segments >= 0 && grid_height >= 1 && grid_width >= 1,
                  "num_segments, grid: expected a number >= 0 and cells >= 1");
  Tensor counts = zeros({labels.size(0), num_segments, grid_height, grid_width}, ScalarType::Int, labels);
  Tensor out = empty({labels.size(0), num_segments, grid_height, grid_width}, ScalarType::Float, labels);
  const std::optional<Tensor> dense_sizes = dense(sizes);
  count(dense(labels), data<int32_t>(dense_sizes), counts);
  share(data<int32_t>(counts), mutable_data<float>(out), labels.size(0) * num_segments, grid_height * grid_width);
  return out;
}

}  // namespace dhvt
