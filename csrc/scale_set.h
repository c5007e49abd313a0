// From which strength on each node of a tree is in the cut of least cost, without torch. All of it in double, without
// fused multiply-adds: the reference repeats it bit for bit.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <utility>

#include "tree_cut.h"

namespace dhvt {

// A cost as a function of the strength: likelihood + strength * penalty.
struct CostLine {
  double likelihood = 0, penalty = 0;

  DHVT_HD CostLine& operator+=(CostLine other) {
    likelihood += other.likelihood;
    penalty += other.penalty;
    return *this;
  }
  DHVT_HD CostLine operator-(CostLine other) const { return {likelihood - other.likelihood, penalty - other.penalty}; }
};

constexpr double kNeverMerged = std::numeric_limits<double>::infinity();

// The least strength >= 0 from which `own` is not above `below`, a line that rises at least as fast; infinity where
// there is none. NaN, of sums that overflow, makes it 0 or infinity.
DHVT_HD double crossing(CostLine own, CostLine below) {
  const double gain = own.likelihood - below.likelihood, saved = below.penalty - own.penalty;
  if (!(gain > 0)) return 0;
  if (!(saved > 0)) return kNeverMerged;
  const double strength = gain / saved;
  return strength <= std::numeric_limits<double>::max() ? strength : kNeverMerged;
}

// The least float32 that is not below a number >= 0; infinity above the largest. A float32 strength is at least the one
// exactly if it is at least the other.
DHVT_HD float float_above(double value) {
  if (!(value <= double(std::numeric_limits<float>::max()))) return std::numeric_limits<float>::infinity();
  const float rounded = static_cast<float>(value);
  return double(rounded) < value ? std::bit_cast<float>(std::bit_cast<uint32_t>(rounded) + 1) : rounded;
}

// The strengths at which the cost of the best cut below a node changes its slope: a max-heap of the nodes that enter
// the cut there.
struct HeapLinks {
  int32_t left, right;  // -1 for none
};

// Joins two skew heaps (Sleator and Tarjan), -1 for an empty one. above(a, b): a comes before b, a total order, so
// that what comes first does not depend on the shape of the heap.
template <typename Above>
DHVT_HD int32_t meld(int32_t a, int32_t b, HeapLinks* links, const Above& above) {
  if (a < 0 || b < 0) return a < 0 ? b : a;
  if (above(b, a)) std::swap(a, b);
  for (int32_t at = a;;) {
    int32_t next = links[at].right;
    links[at].right = links[at].left;
    links[at].left = b;
    if (next < 0) return a;
    if (above(next, b)) {
      links[at].left = next;
    } else {
      std::swap(next, b);
    }
    at = links[at].left;
  }
}

// What is known of the best cuts below a node, from its children's: their line above the highest slope change, and
// those changes.
struct Below {
  CostLine line;
  int32_t heap = -1;
};

// What scale_set does with one image. V = 2L-1 nodes, the leaves first.
template <typename T>
struct ScaleTask {
  int64_t leaves, nodes;
  const T *likelihood, *penalty;  // [V]
  const int32_t *parent, *round;  // [V]
  float *lower, *upper;           // [V]

  // That of image b, of a task that points to the first.
  DHVT_HD ScaleTask of_image(int64_t b) const {
    const int64_t v = b * nodes;
    return {leaves, nodes, likelihood + v, penalty + v, parent + v, round + v, lower + v, upper + v};
  }
};

// The nodes' own numbers, by whatever name a backend has for a node.
struct ScaleNodes {
  double* scale;     // from this strength on the node costs no more than what is below it
  CostLine* change;  // of the line at that strength, downwards
  HeapLinks* links;

  // One node, after its children: from what is below it to what its parent sees. The highest changes that lie above
  // the node's scale never happen, and go.
  template <typename Above>
  DHVT_HD Below enter(int32_t node, CostLine own, Below below, const Above& above) const {
    double strength = crossing(own, below.line);
    while (below.heap >= 0 && scale[below.heap] > strength) {
      below.line += change[below.heap];
      below.heap = meld(links[below.heap].left, links[below.heap].right, links, above);
      strength = crossing(own, below.line);
    }
    scale[node] = strength;
    if (strength == kNeverMerged) return below;
    change[node] = below.line - own;
    links[node] = {below.heap, -1};
    return {own, node};
  }
};

}  // namespace dhvt
