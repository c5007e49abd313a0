// Means up a tree: checks and outputs, shared by every device.
#pragma once

#include <limits>

#include "common.h"
#include "similarity_pool.h"

namespace dhvt {

inline PoolTree pool_tree(const Tensor& count, const Tensor& parent, const Tensor& round, int64_t leaves,
                          int64_t channels) {
  const int64_t nodes = std::max<int64_t>(2 * leaves - 1, 0);
  STD_TORCH_CHECK(nodes <= std::numeric_limits<int32_t>::max(), "similarity_pool: node numbers must fit int32");
  return {leaves, nodes, channels, data<int32_t>(count), data<int32_t>(parent), data<int32_t>(round)};
}

// kernel(PoolTask of the first image, batch).
template <typename Kernel>
std::tuple<Tensor, Tensor> similarity_pool_checked(const Tensor& features, const Tensor& count, const Tensor& parent,
                                                   const Tensor& round, const Kernel& kernel) {
  const ScalarType type = features.scalar_type();
  check(features, "features [B,L,C]", type, {-1, -1, -1});
  const int64_t batch = features.size(0), leaves = features.size(1), channels = features.size(2);
  const int64_t nodes = std::max<int64_t>(2 * leaves - 1, 0);
  check(count, "count [B,V]", ScalarType::Int, {batch, nodes});
  check(parent, "parent [B,V]", ScalarType::Int, {batch, nodes});
  check(round, "round [B,V]", ScalarType::Int, {batch, nodes});
  const Tensor dense_features = dense(features), dense_count = dense(count), dense_parent = dense(parent),
               dense_round = dense(round);
  Tensor out = empty({batch, nodes, channels}, type, features), share = empty({batch, nodes}, type, features);
  dispatch_accumulation(type, "similarity_pool", [&](auto tag) {
    using T = typename decltype(tag)::type;
    kernel(PoolTask<T>{pool_tree(dense_count, dense_parent, dense_round, leaves, channels), data<T>(dense_features),
                       mutable_data<T>(out), mutable_data<T>(share)},
           batch);
  });
  return {out, share};
}

// kernel(PoolBackwardTask of the first image, batch).
template <typename Kernel>
Tensor similarity_pool_backward_checked(const Tensor& grad, const Tensor& node_features, const Tensor& share,
                                        const Tensor& count, const Tensor& parent, const Tensor& round,
                                        const Kernel& kernel) {
  const ScalarType type = node_features.scalar_type();
  check(node_features, "node_features [B,V,C]", type, {-1, -1, -1});
  const int64_t batch = node_features.size(0), nodes = node_features.size(1), channels = node_features.size(2);
  check(grad, "grad [B,V,C]", type, {batch, nodes, channels});
  check(share, "share [B,V]", type, {batch, nodes});
  check(count, "count [B,V]", ScalarType::Int, {batch, nodes});
  check(parent, "parent [B,V]", ScalarType::Int, {batch, nodes});
  check(round, "round [B,V]", ScalarType::Int, {batch, nodes});
  const int64_t leaves = (nodes + 1) / 2;
  const Tensor dense_grad = dense(grad), dense_features = dense(node_features), dense_share = dense(share),
               dense_count = dense(count), dense_parent = dense(parent), dense_round = dense(round);
  Tensor out = empty({batch, leaves, channels}, type, node_features);
  dispatch_accumulation(type, "similarity_pool_backward", [&](auto tag) {
    using T = typename decltype(tag)::type;
    kernel(PoolBackwardTask<T>{pool_tree(dense_count, dense_parent, dense_round, leaves, channels), data<T>(dense_grad),
                               data<T>(dense_features), data<T>(dense_share), mutable_data<T>(out)},
           batch);
  });
  return out;
}

}  // namespace dhvt
