// Moments of segments: checks and outputs, shared by every device.
#pragma once

#include "common.h"

namespace dhvt {

// kernel(TypeTag, features [B,C,H,W], labels [B,H,W], count [B,K], mean [B,K,C], m2 [B,K,C], centroid [B,K,2],
// box [B,K,4], boundary [B,K]); all but the features are dense.
template <typename Kernel>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> segment_moments_checked(const Tensor& features,
                                                                                   const Tensor& labels,
                                                                                   int64_t num_segments,
                                                                                   const Kernel& kernel) {
  const ScalarType type = features.scalar_type(), acc = acc_type(type);
  check(labels, "labels [B,H,W]", ScalarType::Int, {-1, -1, -1});
  const int64_t batch = labels.size(0);
  check(features, "features [B,C,H,W]", type, {batch, -1, labels.size(1), labels.size(2)});
  STD_TORCH_CHECK(num_segments >= 0, "num_segments: expected an integer >= 0; found ", num_segments);
  const int64_t channels = features.size(1);
  Tensor count = empty({batch, num_segments}, ScalarType::Int, labels);
  Tensor mean = empty({batch, num_segments, channels}, acc, features);
  Tensor m2 = empty({batch, num_segments, channels}, acc, features);
  Tensor centroid = empty({batch, num_segments, 2}, acc, features);
  Tensor box = empty({batch, num_segments, 4}, ScalarType::Int, labels);
  Tensor boundary = empty({batch, num_segments}, ScalarType::Int, labels);
  const Tensor dense_labels = dense(labels);
  dispatch_floating(type, "segment_moments",
                    [&](auto tag) { kernel(tag, features, dense_labels, count, mean, m2, centroid, box, boundary); });
  return {count, mean, m2, centroid, box, boundary};
}

// kernel(TypeTag, grad_mean [B,K,C], grad_m2 [B,K,C], features [B,C,H,W], labels [B,H,W], count [B,K], mean [B,K,C],
// out [B,C,H,W]); all but features and `out` are dense.
template <typename Kernel>
Tensor segment_moments_backward_checked(const Tensor& grad_mean, const Tensor& grad_m2, const Tensor& features,
                                        const Tensor& labels, const Tensor& count, const Tensor& mean,
                                        const Kernel& kernel) {
  const ScalarType type = features.scalar_type(), acc = acc_type(type);
  check(labels, "labels [B,H,W]", ScalarType::Int, {-1, -1, -1});
  const int64_t batch = labels.size(0);
  check(features, "features [B,C,H,W]", type, {batch, -1, labels.size(1), labels.size(2)});
  check(count, "count [B,K]", ScalarType::Int, {batch, -1});
  const int64_t num_segments = count.size(1), channels = features.size(1);
  check(mean, "mean [B,K,C]", acc, {batch, num_segments, channels});
  check(grad_mean, "grad_mean [B,K,C]", acc, {batch, num_segments, channels});
  check(grad_m2, "grad_m2 [B,K,C]", acc, {batch, num_segments, channels});
  Tensor out = empty_image_like(features, type);
  const Tensor dense_labels = dense(labels), dense_count = dense(count), dense_mean = dense(mean);
  const Tensor of_mean = dense(grad_mean), of_m2 = dense(grad_m2);
  dispatch_floating(type, "segment_moments_backward", [&](auto tag) {
    kernel(tag, of_mean, of_m2, features, dense_labels, dense_count, dense_mean, out);
  });
  return out;
}

}  // namespace dhvt
