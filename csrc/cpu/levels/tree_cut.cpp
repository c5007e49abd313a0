#include "cpu/levels/tree_cut_kernels.h"

#include <algorithm>

#include "tree_cut.h"

namespace dhvt::DHVT_LEVEL {

void count_segments(int64_t leaves, int64_t nodes, const double* likelihood, const double* penalty,
                    const int32_t* parent, const double* strengths, CutSums* sums, int64_t* segments) {
  double strength[kStrengths];
  std::copy_n(strengths, kStrengths, strength);
  std::fill_n(sums, nodes - leaves + 2, CutSums{});
  for (int64_t v = 0; v < leaves; ++v) {
    CutSums& above = sums[parent[v]];
    for (int k = 0; k < kStrengths; ++k) {
      above.cost[k] += node_cost(likelihood[v], penalty[v], strength[k]);
      above.segments[k] += 1;
    }
  }
  for (int64_t v = leaves; v < nodes; ++v) {
    const CutSums below = sums[v - leaves];
    CutSums& above = sums[parent[v]];
    for (int k = 0; k < kStrengths; ++k) {
      const double cost = node_cost(likelihood[v], penalty[v], strength[k]);
      const bool split = below.cost[k] < cost;
      above.cost[k] += split ? below.cost[k] : cost;
      above.segments[k] += split ? below.segments[k] : 1;
    }
  }
  std::copy_n(sums[nodes - leaves].segments, kStrengths, segments);
}

}  // namespace dhvt::DHVT_LEVEL
