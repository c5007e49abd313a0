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
// The smaller of the odds of either, with the sign of x: what both shares are made of.
DHVT_HD double relaxed_odds(double x) { return std::copysign(std::exp(x < 0 ? x : -x), x); }
DHVT_HD Shares relaxed_shares(double odds) {
  const double e = std::abs(odds), large = 1 / (1 + e), small = e / (1 + e);
  return std::signbit(odds) ? Shares{small, large} : Shares{large, small};
}

// Derivatives of the relaxed cut, of a node that is reached with probability `reach`: to that, and to its gap, the cost
// of the node less that of its children's best cuts. `below` sums its children's derivatives to their `reach`.
DHVT_HD double reach_gradient(double grad_probability, double below, Shares shares) {
  return grad_probability * shares.stays + shares.split * below;
}
DHVT_HD double gap_gradient(double grad_probability, double below, Shares shares, double reach, double temperature) {
  return reach * (grad_probability - below) * shares.stays * shares.split / temperature;
}

// The parent as an index, -1 for a root. A parent that is not an internal node above the child is none, and unused
// nodes (round < 0) have no family, so that any numbers form a forest.
DHVT_HD int64_t valid_parent(const int32_t* parent, const int32_t* round, int64_t leaves, int64_t nodes, int64_t node) {
  const int64_t p = parent[node];
  return p > node && p >= leaves && p < nodes && round[p] >= 0 && round[node] >= 0 ? p : -1;
}

// What tree_cut does with one image. V = 2L-1 nodes, the leaves first.
template <typename T>
struct CutTask {
  int64_t leaves, nodes;
  const T *likelihood, *penalty;    // [V]
  const int32_t *parent, *round;    // [V]
  int32_t *segment, *node, *count;  // [L], [L], one number
  float* strength;                  // one number
  T* probability;                   // [V]

  // That of image b, of a task that points to the first.
  DHVT_HD CutTask of_image(int64_t b) const {
    const int64_t v = b * nodes, leaf = b * leaves;
    return {leaves,         nodes,       likelihood + v, penalty + v,  parent + v,     round + v,
            segment + leaf, node + leaf, count + b,      strength + b, probability + v};
  }
};

struct CutOptions {
  bool greedy;
  float strength;
  int64_t max_tokens;  // 0: no budget
  int64_t lookahead;
  double min_gain, temperature;
};

// What tree_cut_backward does with one image.
template <typename T>
struct CutBackwardTask {
  int64_t leaves, nodes;
  const T *grad_probability, *likelihood, *penalty;  // [V]
  const int32_t *parent, *round;                     // [V]
  const float* strength;                             // one number
  T *grad_likelihood, *grad_penalty;                 // [V]

  DHVT_HD CutBackwardTask of_image(int64_t b) const {
    const int64_t v = b * nodes;
    return {leaves,     nodes,     grad_probability + v, likelihood + v,      penalty + v,
            parent + v, round + v, strength + b,         grad_likelihood + v, grad_penalty + v};
  }
};

}  // namespace dhvt
