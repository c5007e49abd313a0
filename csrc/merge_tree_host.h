// Merging of a region graph into a binary tree: checks and outputs, shared by every device.
#pragma once

#include <limits>

#include "common.h"
#include "merge_tree.h"

namespace dhvt {

// parent, round, count, mean, m2, centroid, box, boundary of the nodes.
using MergedTree = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

inline MergedTree empty_merged_tree(int64_t batch, int64_t nodes, int64_t channels, ScalarType type,
                                    const Tensor& like) {
  return {empty({batch, nodes}, ScalarType::Int, like),    empty({batch, nodes}, ScalarType::Int, like),
          empty({batch, nodes}, ScalarType::Int, like),    empty({batch, nodes, channels}, type, like),
          empty({batch, nodes, channels}, type, like),     empty({batch, nodes, 2}, type, like),
          empty({batch, nodes, 4}, ScalarType::Int, like), empty({batch, nodes}, ScalarType::Int, like)};
}

inline MergeDistance merge_distance_kind(const std::string& distance) {
  if (distance == "feature") return MergeDistance::kFeature;
  if (distance == "ward") return MergeDistance::kWard;
  if (distance == "ward_length") return MergeDistance::kWardLength;
  if (distance == "ward_root") return MergeDistance::kWardRoot;
  STD_TORCH_CHECK(distance == "contrast", "merge_tree: unknown distance ", distance);
  return MergeDistance::kContrast;
}

// A task without leaves and edges, whose nodes are these.
template <typename T>
MergeTask<T> merge_task(const MergedTree& out, MergeDistance kind, double compactness, int64_t depth, double noise) {
  const auto& [parent, round, count, mean, m2, centroid, box, boundary] = out;
  MergeTask<T> task{};
  task.nodes = parent.size(1);
  task.leaves = (task.nodes + 1) / 2;
  task.channels = mean.size(2);
  task.max_rounds = depth > 0 ? depth - 1 : -1;
  task.kind = kind;
  task.compactness = static_cast<T>(compactness);
  task.noise = static_cast<T>(noise);
  task.parent = mutable_data<int32_t>(parent);
  task.round = mutable_data<int32_t>(round);
  task.node = {mutable_data<int32_t>(count), mutable_data<T>(mean),      mutable_data<T>(m2),
               mutable_data<T>(centroid),    mutable_data<int32_t>(box), mutable_data<int32_t>(boundary)};
  return task;
}

// kernel(MergeTask of the first image, batch).
template <typename Kernel>
MergedTree merge_tree_checked(const Tensor& count, const Tensor& mean, const Tensor& m2, const Tensor& centroid,
                              const Tensor& box, const Tensor& boundary, const Tensor& edges, const Tensor& lengths,
                              const std::string& distance, double compactness, int64_t depth, double noise,
                              const Kernel& kernel) {
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
  const MergeDistance kind = merge_distance_kind(distance);
  const Tensor dense_count = dense(count), dense_mean = dense(mean), dense_m2 = dense(m2),
               dense_centroid = dense(centroid), dense_box = dense(box), dense_boundary = dense(boundary),
               dense_edges = dense(edges), dense_lengths = dense(lengths);
  const MergedTree out = empty_merged_tree(batch, nodes, channels, type, count);
  dispatch_accumulation(type, "merge_tree", [&](auto tag) {
    using T = typename decltype(tag)::type;
    MergeTask<T> task = merge_task<T>(out, kind, compactness, depth, noise);
    task.num_edges = num_edges;
    task.leaf = {data<int32_t>(dense_count), data<T>(dense_mean),      data<T>(dense_m2),
                 data<T>(dense_centroid),    data<int32_t>(dense_box), data<int32_t>(dense_boundary)};
    task.edges = data<int32_t>(dense_edges);
    task.lengths = data<int32_t>(dense_lengths);
    kernel(task, batch);
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
