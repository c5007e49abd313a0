// How strong the boundaries between the leaves of a tree are: checks and outputs, shared by every device.
#pragma once

#include <limits>

#include "common.h"
#include "saliency.h"

namespace dhvt {

// What saliency does with all images: L leaves first of V nodes.
struct SaliencyTask {
  int64_t batch, height, width, leaves, nodes;
  const int32_t* labels;          // [B,H,W]
  const float* lower;             // [B,V]
  const int32_t *parent, *round;  // [B,V]
  float* out;                     // [B,H,W]
};

// float32 [B,H,W]. kernel(SaliencyTask).
template <typename Kernel>
Tensor saliency_checked(const Tensor& labels, const Tensor& lower, const Tensor& parent, const Tensor& round,
                        const Kernel& kernel) {
  check(labels, "labels [B,H,W]", ScalarType::Int, {-1, -1, -1});
  const int64_t batch = labels.size(0), height = labels.size(1), width = labels.size(2), nodes = parent.size(1);
  check(parent, "parent [B,V]", ScalarType::Int, {batch, nodes});
  check(lower, "lower [B,V]", ScalarType::Float, {batch, nodes});
  check(round, "round [B,V]", ScalarType::Int, {batch, nodes});
  STD_TORCH_CHECK(nodes <= std::numeric_limits<int32_t>::max(), "saliency: node numbers must fit int32");
  const Tensor l = dense(labels), s = dense(lower), p = dense(parent), r = dense(round);
  Tensor out = empty({batch, height, width}, ScalarType::Float, labels);
  kernel(SaliencyTask{batch, height, width, (nodes + 1) / 2, nodes, data<int32_t>(l), data<float>(s), data<int32_t>(p),
                      data<int32_t>(r), mutable_data<float>(out)});
  return out;
}

}  // namespace dhvt
