// The distance between two neighbouring regions, without torch. Its rounding decides which regions merge, so the order
// of the operations is part of the definition: the reference repeats it, and this header is compiled without
// contraction to fused multiply-adds.
#pragma once

#include <cstdint>
#include <limits>

#include "macros.h"

namespace dhvt {

enum class MergeDistance { kFeature, kWard, kWardLength };

// mean_* [C], box_* [4] (ymin, xmin, ymax, xmax), n_* whole numbers, length of the common boundary. NaN counts as
// infinity, so that a region of NaN merges after all others of its round.
template <typename acc>
DHVT_HD acc merge_distance(MergeDistance kind, acc compactness, int64_t channels, const acc* mean_u, const acc* mean_v,
                           acc n_u, acc n_v, const int32_t* box_u, const int32_t* box_v, acc length) {
  acc distance = 0;
  for (int64_t c = 0; c < channels; ++c) {
    const acc delta = mean_u[c] - mean_v[c];
    distance += delta * delta;
  }
  if (kind != MergeDistance::kFeature) distance = n_u * n_v / (n_u + n_v) * distance;
  if (kind == MergeDistance::kWardLength) distance = distance / length;
  if (compactness > 0) {
    int64_t side[2];
    for (int d = 0; d < 2; ++d) {
      const int64_t low = box_u[d] < box_v[d] ? box_u[d] : box_v[d];
      const int64_t high = box_u[d + 2] > box_v[d + 2] ? box_u[d + 2] : box_v[d + 2];
      side[d] = high - low + 1;
    }
    const acc sides = acc(side[0] + side[1]);
    distance += compactness * (1 - 4 * (n_u + n_v) / (sides * sides));
  }
  return distance == distance ? distance : std::numeric_limits<acc>::infinity();
}

// The gradient of one child's mean, for one channel: d mean / d mean_a = n_a / n and
// d m2 / d mean_a = 2 n_a n_b / n (mean_a - mean_b), where b is the other child. No gradient gives none, even to NaN.
template <typename acc>
DHVT_HD acc merge_gradient(acc grad_mean, acc grad_m2, acc n_a, acc mean_a, acc n_b, acc mean_b) {
  const acc share = n_a / (n_a + n_b);
  return share * grad_mean + (grad_m2 != 0 ? 2 * share * n_b * (mean_a - mean_b) * grad_m2 : acc(0));
}

}  // namespace dhvt
