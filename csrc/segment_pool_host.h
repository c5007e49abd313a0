// Sum, gather, dot and maximum over segments: checks and outputs, shared by every device.
#pragma once

#include <limits>

#include "common.h"

namespace dhvt {

// kernel(TypeTag of the features, features [B,C,H,W], labels [B,H,W], weights [B,H,W] in the accumulation dtype or
// none, sums [B,K,C], mass [B,K]); all but the features are dense.
template <typename Kernel>
std::tuple<Tensor, Tensor> segment_sum_checked(const Tensor& features, const Tensor& labels,
                                               const std::optional<Tensor>& weights, int64_t num_segments,
                                               const Kernel& kernel) {
  const ScalarType type = features.scalar_type();
  check(features, "features [B,C,H,W]", type, {-1, -1, -1, -1});
  check(labels, "labels [B,H,W]", ScalarType::Int, {features.size(0), features.size(2), features.size(3)});
  if (weights)
    check(*weights, "weights [B,H,W]", weights->scalar_type(), {labels.size(0), labels.size(1), labels.size(2)});
  STD_TORCH_CHECK(num_segments >= 0, "num_segments: expected an integer >= 0; found ", num_segments);
  Tensor sums = empty({features.size(0), num_segments, features.size(1)}, acc_type(type), features);
  Tensor mass = empty({features.size(0), num_segments}, acc_type(type), features);
  const Tensor dense_labels = dense(labels);
  const std::optional<Tensor> weight = converted(weights, acc_type(type));
  dispatch_floating(type, "segment_sum", [&](auto tag) { kernel(tag, features, dense_labels, weight, sums, mass); });
  return {sums, mass};
}

// kernel(TypeTag, features [B,C,H,W], labels [B,H,W], values [B,K,C], index [B,K,C]); all but the features are dense.
template <typename Kernel>
std::tuple<Tensor, Tensor> segment_max_checked(const Tensor& features, const Tensor& labels, int64_t num_segments,
                                               const Kernel& kernel) {
  const ScalarType type = features.scalar_type();
  check(features, "features [B,C,H,W]", type, {-1, -1, -1, -1});
  check(labels, "labels [B,H,W]", ScalarType::Int, {features.size(0), features.size(2), features.size(3)});
  STD_TORCH_CHECK(num_segments >= 0, "num_segments: expected an integer >= 0; found ", num_segments);
  STD_TORCH_CHECK(labels.size(1) * labels.size(2) <= std::numeric_limits<int32_t>::max(),
                  "features [B,C,H,W]: the index of a pixel does not fit in int32");
  Tensor values = empty({features.size(0), num_segments, features.size(1)}, type, features);
  Tensor index = empty({features.size(0), num_segments, features.size(1)}, ScalarType::Int, features);
  const Tensor dense_labels = dense(labels);
  dispatch_floating(type, "segment_max", [&](auto tag) { kernel(tag, features, dense_labels, values, index); });
  return {values, index};
}

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
