// The sum over segments, used by segment_sum and mean_inject; defined in segment_sum.cu.
#pragma once

#include "cuda/launch.cuh"

namespace dhvt {

// view [B,C,H,W], labels [B,H,W] dense, weights [B,H,W] or null -> sums [B,K,C], mass [B,K]. Three launches.
template <typename scalar_t>
void sum_over_segments(const Launcher& launch, const ImageView<const scalar_t>& view, const Tensor& labels,
                       const acc_t<scalar_t>* weights, int64_t num_segments, acc_t<scalar_t>* sums,
                       acc_t<scalar_t>* mass);

}  // namespace dhvt
