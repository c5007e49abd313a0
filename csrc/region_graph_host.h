// The graph of touching segments: checks and outputs, shared by every device.
#pragma once

#include <limits>

#include "common.h"

namespace dhvt {

// kernel(labels [B,H,W], dense, edges [B,E,2], lengths [B,E], counts [B]).
template <typename Kernel>
std::tuple<Tensor, Tensor, Tensor> region_graph_checked(const Tensor& labels, int64_t num_segments, int64_t capacity,
                                                        const Kernel& kernel) {
  check(labels, "labels [B,H,W]", ScalarType::Int, {-1, -1, -1});
  STD_TORCH_CHECK(num_segments >= 0 && capacity >= 0, "num_segments, capacity: expected integers >= 0");
  STD_TORCH_CHECK(labels.size(2) <= std::numeric_limits<int32_t>::max(), "labels [B,H,W]: expected W within int32");
  const int64_t batch = labels.size(0);
  const Tensor edges = empty({batch, capacity, 2}, ScalarType::Int, labels);
  const Tensor lengths = empty({batch, capacity}, ScalarType::Int, labels);
  const Tensor counts = empty({batch}, ScalarType::Int, labels);
  kernel(dense(labels), edges, lengths, counts);
  return {edges, lengths, counts};
}

}  // namespace dhvt
