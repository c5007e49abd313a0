// Checks of chains of points: arcs, or what was made of them.
#pragma once

#include <vector>

#include "common.h"

namespace dhvt {

// Chain a has the points [offsets[a], offsets[a+1]) of `points`, at least `least(a)` of them.
template <typename Least>
void check_chains(const Tensor& offsets, int64_t points, const Least& least) {
  const auto* offset = data<int64_t>(offsets);
  STD_TORCH_CHECK(offset[0] >= 0, "offsets [A+1]: expected at least 0; found ", offset[0]);
  for (int64_t a = 0; a + 1 < offsets.size(0); ++a)
    STD_TORCH_CHECK(offset[a] <= points && offset[a] + least(a) <= offset[a + 1], "offsets [A+1]: expected at least ",
                    least(a), " points for chain ", a, "; found ", offset[a], " to ", offset[a + 1], " of ", points);
  const int64_t end = offset[offsets.size(0) - 1];
  STD_TORCH_CHECK(end <= points, "offsets [A+1]: expected to end within ", points, " points; found ", end);
}

// body(a) for each chain, some thousand points to a task.
template <typename Body>
void parallel_chains(const int64_t* offsets, int64_t chains, const Body& body) {
  constexpr int64_t kPoints = 1024;
  std::vector<int64_t> begin{0};
  for (int64_t a = 0; a < chains; ++a)
    if (offsets[a + 1] - offsets[begin.back()] >= kPoints || a + 1 == chains) begin.push_back(a + 1);
  parallel(static_cast<int64_t>(begin.size()) - 1, [&](int64_t task) {
    for (int64_t a = begin[task]; a < begin[task + 1]; ++a) body(a);
  });
}

}  // namespace dhvt
