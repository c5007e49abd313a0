// Arithmetic of one node of a tree cut, without torch. All of it in double, without fused multiply-adds: the reference
// repeats it bit for bit.
#pragma once

#include <cmath>
#include <cstdint>

#include "macros.h"

namespace dhvt {

// What an internal node with a likelihood of NaN or infinity costs more than its children: more than any real gain, so
// that only a budget merges it.
constexpr double kNonFiniteCost = 1e15;

DHVT_HD double node_cost(double likelihood, double penalty, double strength) { return likelihood + strength * penalty; }

// What a node of the relaxed cut does: split = 1 / (1 + exp(-x)) and stays = 1 / (1 + exp(x)), without overflow.
struct Shares {
  double split, stays;
};
DHVT_HD Shares relaxed_shares(double x) {
  const double e = std::exp(x < 0 ? x : -x), large = 1 / (1 + e), small = e / (1 + e);
  return x < 0 ? Shares{small, large} : Shares{large, small};
}

// The parent as an index, -1 for a root. A parent that is not an internal node above the child is none, and unused
// nodes (round < 0) have no family, so that any numbers form a forest.
DHVT_HD int64_t valid_parent(const int32_t* parent, const int32_t* round, int64_t leaves, int64_t nodes, int64_t node) {
  const int64_t p = parent[node];
  return p > node && p >= leaves && p < nodes && round[p] >= 0 && round[node] >= 0 ? p : -1;
}

}  // namespace dhvt
