// Best-neighbour merging of a region graph into a binary tree, and the way of the gradients down that tree.
#include "cpu/merge_round.h"

#include "merge_tree_host.h"

namespace dhvt {
namespace {

// The graph of the leaves. Edges lie at both their ends; parallel ones become one: marker [vertices] tells where each
// vertex was met last.
template <typename T>
void read_graph(const Tree<T>& tree, RegionGraph<T, int64_t>& graph) {
  std::vector<int32_t> slot(tree.leaves, -1), leaf;  // the vertex of each leaf, the leaf of each vertex
  for (int64_t v = 0; v < tree.leaves; ++v) {
    if (tree.leaf.count[v] <= 0) continue;
    slot[v] = static_cast<int32_t>(leaf.size());
    leaf.push_back(static_cast<int32_t>(v));
  }
  const auto each_edge = [&](const auto& body) {
    for (int64_t e = 0; e < tree.num_edges; ++e) {
      if (!tree.is_edge(e)) continue;
      const int32_t u = slot[tree.edges[2 * e]], v = slot[tree.edges[2 * e + 1]];
      body(u, v, tree.lengths[e]);
      body(v, u, tree.lengths[e]);
    }
  };
  std::vector<int64_t> first(leaf.size() + 1);
  each_edge([&](int32_t u, int32_t, int32_t) { ++first[u + 1]; });
  for (size_t u = 0; u < leaf.size(); ++u) first[u + 1] += first[u];
  graph.resize(static_cast<int64_t>(leaf.size()), first.back());
  graph.nodes = leaf;
  graph.begin.assign(first.begin(), first.end() - 1);
  graph.end = graph.begin;
  each_edge([&](int32_t u, int32_t v, int32_t length) { graph.links[graph.end[u]++] = {v, length}; });
  std::vector<int64_t> marker(leaf.size(), -1);
  for (size_t u = 0; u < leaf.size(); ++u) {
    int64_t end = graph.begin[u];
    for (int64_t i = end; i < graph.end[u]; ++i) {
      const auto [v, length] = graph.links[i];
      if (marker[v] >= graph.begin[u]) {
        graph.links[marker[v]].length += length;
      } else {
        marker[v] = end;
        graph.links[end++] = {v, length};
      }
    }
    graph.end[u] = end;
  }
}

template <typename T>
void merge_image(const MergeTask<T>& task) {
  const Tree<T> tree(task);
  tree.copy_leaves();
  MergeRounds<T, int64_t> rounds(tree);
  read_graph(tree, rounds.graph());
  for (int64_t v = rounds.run(); v < task.nodes; ++v) tree.clear(v);
}

// One task per image: the merges of an image depend on each other. Per leaf and round, a round reads the means of both
// ends of each edge and halves the graph at least.
MergedTree merge_tree(const Tensor& count, const Tensor& mean, const Tensor& m2, const Tensor& centroid,
                      const Tensor& box, const Tensor& boundary, const Tensor& edges, const Tensor& lengths,
                      std::string distance, double compactness, int64_t depth, double noise) {
  return merge_tree_checked(
      count, mean, m2, centroid, box, boundary, edges, lengths, distance, compactness, depth, noise,
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
  for (int64_t v = 0; v < task.leaves; ++v) {
    const bool used = task.count[v] > 0;  // the moments of an unused leaf are zero, whatever came in
    for (int64_t i = v * channels; i < (v + 1) * channels; ++i) {
      task.leaf_grad_mean[i] = used ? total_mean[i] : T(0);
      task.leaf_grad_m2[i] = used ? total_m2[i] : T(0);
    }
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
