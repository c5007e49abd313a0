// One image's tree, brought into order.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "tree_cut.h"

namespace dhvt {

// Which of V nodes are used, and the parent of each, -1 for roots. Leaves are the first L.
struct CutForest {
  int64_t leaves, nodes;
  std::vector<int32_t> parent;
  std::vector<char> used;

  CutForest(int64_t nodes, const int32_t* parent_in, const int32_t* round)
      : leaves((nodes + 1) / 2), nodes(nodes), parent(nodes, -1), used(nodes) {
    for (int64_t v = 0; v < nodes; ++v) {
      if (v < leaves) used[v] = round[v] >= 0;
      if (!used[v]) continue;  // an internal node is used once a used child has said so
      parent[v] = static_cast<int32_t>(valid_parent(parent_in, round, leaves, nodes, v));
      if (parent[v] >= 0) used[parent[v]] = true;
    }
  }
};

// With the nodes' costs, all finite.
struct CutTree : CutForest {
  std::vector<char> finite;  // the likelihood is the caller's
  std::vector<double> likelihood, penalty;

  template <typename T>
  CutTree(int64_t nodes, const T* likelihood_in, const T* penalty_in, const int32_t* parent_in, const int32_t* round)
      : CutForest(nodes, parent_in, round), finite(nodes), likelihood(nodes), penalty(nodes) {
    std::vector<double> children(nodes, 0.0);
    for (int64_t v = 0; v < nodes; ++v) {
      if (!used[v]) continue;
      finite[v] = std::isfinite(double(likelihood_in[v]));
      likelihood[v] = finite[v] ? double(likelihood_in[v]) : v < leaves ? 0.0 : children[v] + kNonFiniteCost;
      penalty[v] = std::isfinite(double(penalty_in[v])) ? double(penalty_in[v]) : 0.0;
      if (parent[v] >= 0) children[parent[v]] += likelihood[v];
    }
  }

  double cost(int64_t v, double strength) const { return node_cost(likelihood[v], penalty[v], strength); }
};

}  // namespace dhvt
