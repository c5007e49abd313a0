// Best-neighbour merging of a region graph into a binary tree, and the way of the gradients down that tree.
#include "cpu/merge_round.h"

#include "merge_tree_host.h"

namespace dhvt {
namespace {

template <typename T>
void merge_image(const MergeTask<T>& task) {
  const Tree<T> tree(task);
  MergeRounds<T> rounds(tree);
  const auto& [leaf, node, channels] = std::tie(task.leaf, task.node, task.channels);
  std::vector<int32_t> slot(task.leaves, -1);  // vertex of each leaf
  for (int64_t v = 0; v < task.leaves; ++v) {
    tree.clear(v);
    if (leaf.count[v] <= 0) continue;
    slot[v] = static_cast<int32_t>(rounds.vertices.size());
    rounds.vertices.push_back(static_cast<int32_t>(v));
    task.round[v] = 0;
    node.count[v] = leaf.count[v];
    node.boundary[v] = leaf.boundary[v];
    std::copy_n(leaf.mean + v * channels, channels, node.mean + v * channels);
    std::copy_n(leaf.m2 + v * channels, channels, node.m2 + v * channels);
    std::copy_n(leaf.centroid + 2 * v, 2, node.centroid + 2 * v);
    std::copy_n(leaf.box + 4 * v, 4, node.box + 4 * v);
  }
  rounds.raw.reserve(task.num_edges);
  for (int64_t e = 0; e < task.num_edges; ++e)
    if (task.is_edge(e)) rounds.raw.push_back({slot[task.edges[2 * e]], slot[task.edges[2 * e + 1]], task.lengths[e]});
  for (int64_t v = rounds.run(task.leaves, 0); v < task.nodes; ++v) tree.clear(v);
}

// One task per image: the merges of an image depend on each other. Per leaf and round, a round reads the means of both
// ends of each edge and halves the graph at least.
MergedTree merge_tree(const Tensor& count, const Tensor& mean, const Tensor& m2, const Tensor& centroid,
                      const Tensor& box, const Tensor& boundary, const Tensor& edges, const Tensor& lengths,
                      std::string distance, double compactness, int64_t depth) {
  return merge_tree_checked(
      count, mean, m2, centroid, box, boundary, edges, lengths, distance, compactness, depth,
      [](const auto& task, int64_t batch) { parallel(batch, [&](int64_t b) { merge_image(task.of_image(b)); }); });
}

// One task per image, from the root down: grad_* [V,C] of a node are complete before its children read them. A node
// that has not exactly two children passes nothing on.
template <typename T>
void merge_backward_image(const MergeBackwardTask<T>& task) {
  const int64_t nodes = task.nodes, channels = task.channels, size = nodes * channels;
  std::vector<T> total_mean(task.grad_mean, task.grad_mean + size), total_m2(task.grad_m2, task.grad_m2 + size);
  std::vector<int32_t> children(nodes, 0);
  std::vector<int64_t> child_sum(nodes, 0);  // so that sum - v is the sibling of v
  for (int64_t v = 0; v < nodes; ++v) {
    const int64_t p = task.valid_parent(v);
    if (p < 0) continue;
    ++children[p];
    child_sum[p] += v;
  }
  for (int64_t v = nodes - 1; v >= 0; --v) {
    const int64_t p = task.valid_parent(v);
    if (p < 0 || children[p] != 2) continue;
    const int64_t other = child_sum[p] - v;
    const T n = T(task.count[v]), n_other = T(task.count[other]);
    for (int64_t c = 0; c < channels; ++c) {
      const T g = total_m2[p * channels + c];
      total_m2[v * channels + c] += g;
      total_mean[v * channels + c] += merge_gradient(total_mean[p * channels + c], g, n, task.mean[v * channels + c],
                                                     n_other, task.mean[other * channels + c]);
    }
  }
  for (int64_t i = 0; i < task.leaves * channels; ++i) {
    const bool used = task.count[i / channels] > 0;  // the moments of an unused leaf are zero, whatever came in
    task.leaf_grad_mean[i] = used ? total_mean[i] : T(0);
    task.leaf_grad_m2[i] = used ? total_m2[i] : T(0);
  }
}

std::tuple<Tensor, Tensor> merge_tree_backward(const Tensor& grad_mean, const Tensor& grad_m2, const Tensor& parent,
                                               const Tensor& node_count, const Tensor& node_mean) {
  return merge_tree_backward_checked(grad_mean, grad_m2, parent, node_count, node_mean,
                                     [](const auto& task, int64_t batch) {
                                       parallel(batch, [&](int64_t b) { merge_backward_image(task.of_image(b)); });
                                     });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("merge_tree", TORCH_BOX(&dhvt::merge_tree));
  m.impl("merge_tree_backward", TORCH_BOX(&dhvt::merge_tree_backward));
}
