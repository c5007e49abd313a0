// One image's tree, brought into order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tree_cut.h"

namespace dhvt {

// The parent of each of V nodes: -1 for roots, kUnused for what no used leaf is below. Leaves are the first L.
struct CutForest {
  static constexpr int32_t kUnused = -2;

  int64_t leaves, nodes;
  std::vector<int32_t> parent;

  CutForest(int64_t nodes, const int32_t* parent_in, const int32_t* round)
      : leaves((nodes + 1) / 2), nodes(nodes), parent(nodes, kUnused) {
    for (int64_t v = 0; v < nodes; ++v) {
      // A used child has made an internal node a root for now.
      if (v < leaves ? round[v] < 0 : parent[v] == kUnused) continue;
      parent[v] = static_cast<int32_t>(valid_parent(parent_in, round, leaves, nodes, v));
      if (parent[v] >= 0) parent[parent[v]] = -1;
    }
  }

  bool used(int64_t v) const { return parent[v] != kUnused; }
};

// body(likelihood [V], penalty [V]) with finite numbers: the caller's or, where some of those are not, others in their
// place.
template <typename T, typename Body>
void with_finite_terms(const CutForest& tree, const T* likelihood, const T* penalty, const Body& body) {
  bool finite = true;
  for (int64_t v = 0; v < tree.nodes; ++v) finite &= std::isfinite(likelihood[v]) & std::isfinite(penalty[v]);
  if (finite) return body(likelihood, penalty);
  std::vector<double> fit(tree.nodes, 0.0), price(tree.nodes, 0.0), children(tree.nodes, 0.0);
  for (int64_t v = 0; v < tree.nodes; ++v) {
    if (!tree.used(v)) continue;
    fit[v] = std::isfinite(likelihood[v]) ? double(likelihood[v])
             : v < tree.leaves            ? 0.0
                                          : children[v] + kNonFiniteCost;
    price[v] = std::isfinite(penalty[v]) ? double(penalty[v]) : 0.0;
    if (tree.parent[v] >= 0) children[tree.parent[v]] += fit[v];
  }
  body(fit.data(), price.data());
}

}  // namespace dhvt
