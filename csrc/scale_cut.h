// Cuts of a scale set, without torch.
#pragma once

#include <cstdint>
#include <limits>

#include "tree_cut.h"

namespace dhvt {

constexpr float kLargestStrength = std::numeric_limits<float>::max();

// A strength that may be any number, brought into [0, largest]; NaN counts as 0.
DHVT_HD float valid_strength(float strength) {
  return !(strength > 0) ? 0.0f : strength < kLargestStrength ? strength : kLargestStrength;
}

// From which strength on a node's leaves are in one segment: `lower`, but not after the same of its parent, and 0 for a
// leaf. For the ranges of a scale set that is `lower` itself. NaN counts as infinity.
DHVT_HD float birth(bool leaf, float lower, float of_parent) {
  return leaf ? 0.0f : lower < of_parent ? lower : of_parent;
}

// What scale_cut does. V = 2L-1 nodes, the leaves first; N cuts of K segments each.
struct ScaleCutTask {
  int64_t batch, leaves, nodes, cuts, capacity;
  const float* lower;               // [B,V]
  const int32_t *parent, *round;    // [B,V]
  const float* least;               // [N] least strength
  const int32_t* max_tokens;        // [N] no budget where it is not positive
  int32_t *segment, *node, *count;  // [N,B,L], [N,B,K], [N,B]
  float* strength;                  // [N,B]
};

}  // namespace dhvt
