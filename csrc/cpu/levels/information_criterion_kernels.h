// Likelihoods of many nodes: what is compiled per level.
#pragma once

#include <cstdint>

#include "cpu/level.h"

namespace dhvt {

constexpr int kCriterionNodes = 8;  // side by side

// likelihood [kCriterionNodes] of nodes with count [kCriterionNodes] and m2 [kCriterionNodes,C]: that of
// node_likelihood, bit for bit.
DHVT_PER_LEVEL(template <typename acc> void node_likelihoods(const int32_t* count, const acc* m2, int64_t channels,
                                                             double noise, double rho, double* likelihood);)

}  // namespace dhvt
