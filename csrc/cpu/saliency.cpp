// How strong the boundaries between the leaves of a tree are: once per image the way up without nodes that a node above
// them makes superfluous, then a task per row.
#include "saliency_host.h"

#include <vector>

#include "tree_cut.h"

namespace dhvt {
namespace {

// For each node the next one above it, of those whose strength is not that of their own parent: the lowest common
// ancestor on this way has the strength of that on the whole way.
void shorten(const SaliencyTask& t, int64_t b, int32_t* up) {
  const int64_t v0 = b * t.nodes;
  const float* lower = t.lower + v0;
  std::vector<int32_t> parent(t.nodes);
  for (int64_t v = t.nodes - 1; v >= 0; --v) {
    const int64_t p = valid_parent(t.parent + v0, t.round + v0, t.leaves, t.nodes, v);
    parent[v] = static_cast<int32_t>(p);
    const bool skipped = p >= 0 && parent[p] >= 0 && lower[p] == lower[parent[p]];
    up[v] = skipped ? up[p] : parent[v];
  }
}

Tensor saliency(const Tensor& labels, const Tensor& lower, const Tensor& parent, const Tensor& round) {
  return saliency_checked(labels, lower, parent, round, [](const SaliencyTask& t) {
    std::vector<int32_t> up(t.batch * t.nodes);
    parallel(t.batch, [&](int64_t b) { shorten(t, b, up.data() + b * t.nodes); });
    parallel(
        t.batch * t.height,
        [&](int64_t row) {
          const int64_t b = row / t.height, y = row % t.height;
          const int32_t *label = t.labels + b * t.height * t.width, *above = up.data() + b * t.nodes;
          const float* strength = t.lower + b * t.nodes;
          for (int64_t x = 0; x < t.width; ++x)
            t.out[row * t.width + x] =
                pixel_saliency(label, t.height, t.width, y, x, t.leaves, strength, [&](int32_t v) { return above[v]; });
        },
        8);
  });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("saliency", TORCH_BOX(&dhvt::saliency)); }
