// The strengths at which each node of a tree is in the cut of least cost, one task per image: up the tree with a heap
// of the slope changes below each node, and down for the least scale above it. O(V log V).
#include "scale_set_host.h"

#include <algorithm>

#include "cpu/cut_tree.h"

namespace dhvt {
namespace {

// C: double, or the caller's T.
template <typename T, typename C>
void scales_of_image(const ScaleTask<T>& task, const CutForest& tree, const C* likelihood, const C* penalty) {
  const int64_t inner = tree.nodes - tree.leaves;
  // Inner nodes go by their number among them.
  std::vector<double> scale(inner);
  std::vector<CostLine> change(inner);
  std::vector<HeapLinks> links(inner);
  std::vector<Below> below(inner);
  const ScaleNodes all{scale.data(), change.data(), links.data()};
  const auto above = [&](int32_t a, int32_t b) { return scale[a] > scale[b] || (scale[a] == scale[b] && a > b); };
  for (int64_t v = 0; v < tree.nodes; ++v) {
    if (!tree.used(v)) continue;
    const CostLine own{likelihood[v], penalty[v]};
    const int64_t i = v - tree.leaves;
    const Below here = i < 0 ? Below{own} : all.enter(static_cast<int32_t>(i), own, below[i], above);
    if (tree.parent[v] < 0) continue;
    Below& sum = below[tree.parent[v] - tree.leaves];
    sum.line += here.line;
    sum.heap = meld(sum.heap, here.heap, links.data(), above);
  }
  constexpr float never = std::numeric_limits<float>::infinity();
  for (int64_t v = tree.nodes - 1; v >= 0; --v) {
    const int32_t p = tree.parent[v];
    task.upper[v] = p < 0 ? never : task.lower[p];
    const float own = !tree.used(v) ? never : v < tree.leaves ? 0.0f : float_above(scale[v - tree.leaves]);
    task.lower[v] = std::min(own, task.upper[v]);
  }
}

std::tuple<Tensor, Tensor> scale_set(const Tensor& likelihood, const Tensor& penalty, const Tensor& parent,
                                     const Tensor& round) {
  return scale_set_checked(likelihood, penalty, parent, round, [](const auto& task, int64_t batch) {
    parallel(batch, [&](int64_t b) {
      const auto image = task.of_image(b);
      const CutForest tree(image.nodes, image.parent, image.round);
      with_finite_terms(tree, image.likelihood, image.penalty, [&](const auto* likelihood, const auto* penalty) {
        scales_of_image(image, tree, likelihood, penalty);
      });
    });
  });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("scale_set", TORCH_BOX(&dhvt::scale_set)); }
