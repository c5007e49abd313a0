// Connected components: checks and outputs, shared by every device.
#pragma once

#include <limits>

#include "common.h"

namespace dhvt {

// kernel(labels [B,H,W], dense, components [B,H,W], counts [B]), where there is a pixel.
template <typename Kernel>
std::tuple<Tensor, Tensor> connected_components_checked(const Tensor& labels, const std::optional<Tensor>& features,
                                                        const Kernel& kernel) {
  check(labels, "labels [B,H,W]", ScalarType::Int, {-1, -1, -1});
  const int64_t batch = labels.size(0), height = labels.size(1), width = labels.size(2);
  if (features.has_value()) check(*features, "features [B,C,H,W]", features->scalar_type(), {batch, -1, height, width});
  STD_TORCH_CHECK(height == 0 || width < std::numeric_limits<int32_t>::max() / 2 / height,
                  "labels [B,H,W]: expected at most 2^30 pixels per image");
  const Tensor components = empty({batch, height, width}, ScalarType::Int, labels);
  if (batch * height * width == 0) return {components, zeros({batch}, ScalarType::Int, labels)};
  const Tensor counts = empty({batch}, ScalarType::Int, labels);
  kernel(dense(labels), components, counts);
  return {components, counts};
}

}  // namespace dhvt
