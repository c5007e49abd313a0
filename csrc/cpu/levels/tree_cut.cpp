#include "cpu/levels/tree_cut_kernels.h"

#include <algorithm>

namespace dhvt::DHVT_LEVEL {

void count_segments(int64_t leaves, int64_t nodes, const double* likelihood, const double* penalty,
                    const int32_t* parent, const double* strengths, CutSums* sums, int64_t* segments) {
  StrengthDoubles strength;
  std::copy_n(strengths, kStrengths, reinterpret_cast<double*>(&strength));
  std::fill_n(sums, nodes - leaves + 2, CutSums{});
  const StrengthCounts one = StrengthCounts{} + 1;
  for (int64_t v = 0; v < leaves; ++v) {
    CutSums& above = sums[parent[v]];
    above.cost += likelihood[v] + strength * penalty[v];  // node_cost
    above.segments += one;
  }
  for (int64_t v = leaves; v < nodes; ++v) {
    const CutSums& below = sums[v - leaves];
    CutSums& above = sums[parent[v]];
    const StrengthDoubles cost = likelihood[v] + strength * penalty[v];
    const StrengthCounts split = below.cost < cost;
    above.cost += split ? below.cost : cost;
    above.segments += split ? below.segments : one;
  }
  std::copy_n(reinterpret_cast<const int64_t*>(&sums[nodes - leaves].segments), kStrengths, segments);
}

}  // namespace dhvt::DHVT_LEVEL
