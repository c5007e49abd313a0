// Optimal cuts at several strengths at once: what is compiled per level.
#pragma once

#include <cstdint>

#include "cpu/level.h"

namespace dhvt {

constexpr int kStrengths = 8;

typedef double StrengthDoubles __attribute__((vector_size(kStrengths * sizeof(double))));
typedef int64_t StrengthCounts __attribute__((vector_size(kStrengths * sizeof(int64_t))));

// What the inner nodes and two more gather from their children: the cost of the best cut, and its segments.
struct CutSums {
  StrengthDoubles cost;
  StrengthCounts segments;
};

// The segments of the cut of least cost at each of the strengths [kStrengths]. parent [V]: number of an inner node from
// the first on, V - L for a root, V - L + 1 where unused; sums [V - L + 2] is scratch.
DHVT_PER_LEVEL(void count_segments(int64_t leaves, int64_t nodes, const double* likelihood, const double* penalty,
                                   const int32_t* parent, const double* strengths, CutSums* sums, int64_t* segments);)

}  // namespace dhvt
