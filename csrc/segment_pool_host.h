// Gather and dot over segments: checks and outputs, shared by every device.
#pragma once

#include "common.h"

namespace dhvt {

// kernel(TypeTag, values [B,K,C], labels [B,H,W], weights [B,H,W] in the accumulation dtype or none, out [B,C,H,W]);
// all but `out` are dense.
template <typename Kernel>
Tensor segment_gather_checked(const Tensor& values, const Tensor& labels, const std::optional<Tensor>& weights,
                              bool channels_last, const Kernel& kernel) {
  const ScalarType type = values.scalar_type();
  check(labels, "labels [B,H,W]", ScalarType::Int, {-1, -1, -1});
  check(values, "values [B,K,C]", type, {labels.size(0), -1, -1});
  if (weights)
    check(*weights, "weights [B,H,W]", weights->scalar_type(), {labels.size(0), labels.size(1), labels.size(2)});
  Tensor out =
      empty_image({labels.size(0), values.size(2), labels.size(1), labels.size(2)}, type, channels_last, values);
  const Tensor dense_values = dense(values), dense_labels = dense(labels);
  const std::optional<Tensor> weight = converted(weights, acc_type(type));
  dispatch_floating(type, "segment_gather", [&](auto tag) { kernel(tag, dense_values, dense_labels, weight, out); });
  return out;
}

// kernel(TypeTag of the features, values [B,K,C] in the accumulation dtype, features [B,C,H,W], labels [B,H,W],
// out [B,H,W]); all but the features are dense.
template <typename Kernel>
Tensor segment_dot_checked(const Tensor& values, const Tensor& features, const Tensor& labels, const Kernel& kernel) {
  const ScalarType type = features.scalar_type();
  check(features, "features [B,C,H,W]", type, {-1, -1, -1, -1});
  check(values, "values [B,K,C]", values.scalar_type(), {features.size(0), -1, features.size(1)});
  check(labels, "labels [B,H,W]", ScalarType::Int, {features.size(0), features.size(2), features.size(3)});
  Tensor out = empty({labels.size(0), labels.size(1), labels.size(2)}, acc_type(type), features);
  const Tensor dense_values = converted(values, acc_type(type)), dense_labels = dense(labels);
  dispatch_floating(type, "segment_dot", [&](auto tag) { kernel(tag, dense_values, features, dense_labels, out); });
  return out;
}

}  // namespace dhvt
