// Means up a tree, weighted by size times similarity, and their gradients down it.
#include "similarity_pool_host.h"

namespace dhvt {
namespace {

// visit(node, lower child, higher child) of every node with two children, in the order of `upwards`. Others have none.
template <typename Visit>
void each_merge(const PoolTree& tree, bool upwards, const Visit& visit) {
  const int64_t inner = tree.nodes - tree.leaves;
  std::vector<int32_t> children(inner, 0), low(inner), high(inner);
  for (int64_t v = 0; v < tree.nodes; ++v) {
    const int64_t p = tree.valid_parent(v);
    if (p < 0) continue;
    (children[p - tree.leaves]++ == 0 ? low : high)[p - tree.leaves] = static_cast<int32_t>(v);
  }
  for (int64_t k = 0; k < inner; ++k) {
    const int64_t i = upwards ? k : inner - 1 - k;
    if (children[i] == 2) visit(tree.leaves + i, low[i], high[i]);
  }
}

// One task per image: a parent's index is above its children's, so the nodes' order is one from the leaves to the
// root. Reads and writes the features about twice, and takes at most an exponential per node.
std::tuple<Tensor, Tensor> similarity_pool(const Tensor& features, const Tensor& count, const Tensor& parent,
                                           const Tensor& round) {
  return similarity_pool_checked(features, count, parent, round, [](const auto& first, int64_t batch) {
    parallel(batch, [&](int64_t b) {
      const auto task = first.of_image(b);
      std::vector<PoolWeight> weight(task.tree.nodes - task.tree.leaves);
      for (int64_t v = 0; v < task.tree.nodes; ++v) task.start(v, weight.data());
      each_merge(task.tree, true, [&](int64_t p, int64_t a, int64_t b) { task.join(p, a, b, weight.data()); });
    });
  });
}

// One task per image, from the root down.
template <typename T>
void pool_backward_image(const PoolBackwardTask<T>& task) {
  const int64_t inner = task.tree.nodes - task.tree.leaves;
  std::vector<double> weight_grad(inner);
  std::vector<T> total(inner * task.tree.channels);
  for (int64_t v = 0; v < task.tree.nodes; ++v) task.start(v, total.data(), weight_grad.data());
  each_merge(task.tree, false,
             [&](int64_t p, int64_t a, int64_t b) { task.split(p, a, b, total.data(), weight_grad.data()); });
}

Tensor similarity_pool_backward(const Tensor& grad, const Tensor& node_features, const Tensor& share,
                                const Tensor& count, const Tensor& parent, const Tensor& round) {
  return similarity_pool_backward_checked(grad, node_features, share, count, parent, round,
                                          [](const auto& task, int64_t batch) {
                                            parallel(batch, [&](int64_t b) { pool_backward_image(task.of_image(b)); });
                                          });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("similarity_pool", TORCH_BOX(&dhvt::similarity_pool));
  m.impl("similarity_pool_backward", TORCH_BOX(&dhvt::similarity_pool_backward));
}
