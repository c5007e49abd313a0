// Count, mean and sum of squared deviations of a set of pixels, without torch.
#pragma once

#include "macros.h"

namespace dhvt {

// Joins set b to set a, for one channel (Chan, Golub and LeVeque, 1979). No difference of large numbers occurs, unlike
// in E[x^2] - E[x]^2. Counts are whole numbers in acc; an empty set on either side, or on both, changes nothing.
template <typename acc>
DHVT_HD void chan_merge(acc n_a, acc& mean_a, acc& m2_a, acc n_b, acc mean_b, acc m2_b) {
  const acc n = n_a + n_b;
  const acc share = n > 0 ? n_b / n : acc(0);
  const acc delta = mean_b - mean_a;
  mean_a += delta * share;
  m2_a += m2_b + delta * n_a * share * delta;
}

// The gradient of one pixel's feature, for one channel: d mean / d f = 1 / n, d m2 / d f = 2 (f - mean).
// No gradient gives none, even to NaN.
template <typename acc>
DHVT_HD acc moments_gradient(acc grad_mean, acc grad_m2, acc n, acc mean, acc feature) {
  return grad_mean / n + (grad_m2 != 0 ? 2 * grad_m2 * (feature - mean) : acc(0));
}

}  // namespace dhvt
