// Optimal cuts at several strengths at once: what is compiled per level.
#pragma once

#include <cstdint>

#include "cpu/level.h"

namespace dhvt {

constexpr int kStrengths = 8;

// What the inner nodes and two more gather from their children: the cost of the best cut, and its segments.
struct alignas(64) CutSums {
  double cost[kStrengths];
  int64_t segments[kStrengths];
};

// The segments of the cut of least cost at each of the strengths [kStrengths]. parent [V]: number of an inner node from
// the first on, V - L for a root, V - L + 1 where unused; sums [V - L + 2] is scratch.
DHVT_PER_LEVEL(void count_segments(int64_t leaves, int64_t nodes, const double* likelihood, const double* penalty,
                                   const int32_t* parent, const double* strengths, CutSums* sums, int64_t* segments);)

}  // namespace dhvt
