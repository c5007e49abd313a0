// Merging from the pixels of an image: checks and outputs, shared by every device.
#pragma once

#include "merge_tree_host.h"

namespace dhvt {

// kernel(mask [B,H,W] or null, MergeTask of the first image, of which neither leaves nor edges are set).
template <typename Kernel>
MergedTree merge_pixels_checked(const Tensor& features, const std::optional<Tensor>& mask, const std::string& distance,
                                double compactness, int64_t depth, double noise, const Kernel& kernel) {
  STD_TORCH_CHECK(features.dim() == 4, "features: expected [B,C,H,W]");
  const int64_t batch = features.size(0), height = features.size(2), width = features.size(3);
  check(mask, "mask [B,H,W]", ScalarType::Bool, {batch, height, width});
  const int64_t leaves = height * width, nodes = std::max<int64_t>(2 * leaves - 1, 0);
  STD_TORCH_CHECK(nodes <= std::numeric_limits<int32_t>::max(), "merge_pixels: node numbers must fit int32");
  const MergeDistance kind = merge_distance_kind(distance);
  const std::optional<Tensor> dense_mask = dense(mask);
  const MergedTree out = empty_merged_tree(batch, nodes, features.size(1), acc_type(features.scalar_type()), features);
  if (batch == 0 || leaves == 0) return out;
  dispatch_accumulation(acc_type(features.scalar_type()), "merge_pixels", [&](auto tag) {
    using T = typename decltype(tag)::type;
    kernel(data<bool>(dense_mask), merge_task<T>(out, kind, compactness, depth, noise));
  });
  return out;
}

}  // namespace dhvt
