// Merging of a region graph into a binary tree: checks and outputs, shared by every device.
#pragma once

#include <limits>

#include "common.h"
#include "merge_tree.h"

namespace dhvt {

// parent, round, count, mean, m2, centroid, box, boundary of the nodes.
using MergedTree = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// kernel(MergeTask of the first image, batch).
template <typename Kernel>
MergedTree merge_tree_checked(const Tensor& count, const Tensor& mean, const Tensor& m2, const Tensor& centroid,
                              const Tensor& box, const Tensor& boundary, const Tensor& edges, const Tensor& lengths,
                              const std::string& distance, double compactness, int64_t depth, const Kernel& kernel) {
  check(count, "count [B,L]", ScalarType::Int, {-1, -1});
  const ScalarType type = mean.scalar_type();
  const int64_t batch = count.size(0), leaves = count.size(1), nodes = std::max<int64_t>(2 * leaves - 1, 0);
  check(mean, "mean [B,L,C]", type, {batch, leaves, -1});
  const int64_t channels = mean.size(2);
  check(m2, "m2 [B,L,C]", type, {batch, leaves, channels});
  check(centroid, "centroid [B,L,2]", type, {batch, leaves, 2});
  check(box, "box [B,L,4]", ScalarType::Int, {batch, leaves, 4});
  check(boundary, "boundary [B,L]", ScalarType::Int, {batch, leaves});
  check(edges, "edges [B,E,2]", ScalarType::Int, {batch, -1, 2});
  const int64_t num_edges = edges.size(1);
  check(lengths, "lengths [B,E]", ScalarType::Int, {batch, num_edges});
  STD_TORCH_CHECK(nodes <= std::numeric_limits<int32_t>::max() && num_edges <= std::numeric_limits<int32_t>::max(),
                  "merge_tree: node and edge numbers must fit int32");
  STD_TORCH_CHECK(distance == "feature" || distance == "ward" || distance == "ward_length",
                  "merge_tree: unknown distance ", distance);
  const MergeDistance kind = distance == "feature" ? MergeDistance::kFeature
                             : distance == "ward"  ? MergeDistance::kWard
                                                   : MergeDistance::kWardLength;
  const Tensor dense_count = dense(count), dense_mean = dense(mean), dense_m2 = dense(m2),
               dense_centroid = dense(centroid), dense_box = dense(box), dense_boundary = dense(boundary),
               dense_edges = dense(edges), dense_lengths = dense(lengths);
  MergedTree out = {empty({batch, nodes}, ScalarType::Int, count),    empty({batch, nodes}, ScalarType::Int, count),
                    empty({batch, nodes}, ScalarType::Int, count),    empty({batch, nodes, channels}, type, count),
                    empty({batch, nodes, channels}, type, count),     empty({batch, nodes, 2}, type, count),
                    empty({batch, nodes, 4}, ScalarType::Int, count), empty({batch, nodes}, ScalarType::Int, count)};
  dispatch_accumulation(type, "merge_tree", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto& [parent, round, node_count, node_mean, node_m2, node_centroid, node_box, node_boundary] = out;
    kernel(MergeTask<T>{leaves,
                        nodes,
                        channels,
                        num_edges,
                        depth > 0 ? depth - 1 : -1,
                        kind,
                        static_cast<T>(compactness),
                        {data<int32_t>(dense_count), data<T>(dense_mean), data<T>(dense_m2), data<T>(dense_centroid),
                         data<int32_t>(dense_box), data<int32_t>(dense_boundary)},
                        data<int32_t>(dense_edges),
                        data<int32_t>(dense_lengths),
                        mutable_data<int32_t>(parent),
                        mutable_data<int32_t>(round),
                        {mutable_data<int32_t>(node_count), mutable_data<T>(node_mean), mutable_data<T>(node_m2),
                         mutable_data<T>(node_centroid), mutable_data<int32_t>(node_box),
                         mutable_data<int32_t>(node_boundary)}},
           batch);
  });
  return out;
}

// kernel(MergeBackwardTask of the first image, batch).
template <typename Kernel>
std::tuple<Tensor, Tensor> merge_tree_backward_checked(const Tensor& grad_mean, const Tensor& grad_m2,
                                                       const Tensor& parent, const Tensor& node_count,
                                                       const Tensor& node_mean, const Kernel& kernel) {
  check(parent, "parent [B,V]", ScalarType::Int, {-1, -1});
  const ScalarType type = node_mean.scalar_type();
  const int64_t batch = parent.size(0), nodes = parent.size(1), leaves = (nodes + 1) / 2;
  check(node_mean, "node_mean [B,V,C]", type, {batch, nodes, -1});
  const int64_t channels = node_mean.size(2);
  check(node_count, "node_count [B,V]", ScalarType::Int, {batch, nodes});
  check(grad_mean, "grad_mean [B,V,C]", type, {batch, nodes, channels});
  check(grad_m2, "grad_m2 [B,V,C]", type, {batch, nodes, channels});
  STD_TORCH_CHECK(nodes <= std::numeric_limits<int32_t>::max(), "merge_tree_backward: node numbers must fit int32");
  const Tensor dense_grad_mean = dense(grad_mean), dense_grad_m2 = dense(grad_m2), dense_parent = dense(parent),
               dense_count = dense(node_count), dense_mean = dense(node_mean);
  Tensor leaf_mean = empty({batch, leaves, channels}, type, parent);
  Tensor leaf_m2 = empty({batch, leaves, channels}, type, parent);
  dispatch_accumulation(type, "merge_tree_backward", [&](auto tag) {
    using T = typename decltype(tag)::type;
    kernel(MergeBackwardTask<T>{leaves, nodes, channels, data<T>(dense_grad_mean), data<T>(dense_grad_m2),
                                data<int32_t>(dense_parent), data<int32_t>(dense_count), data<T>(dense_mean),
                                mutable_data<T>(leaf_mean), mutable_data<T>(leaf_m2)},
           batch);
  });
  return {leaf_mean, leaf_m2};
}

}  // namespace dhvt
