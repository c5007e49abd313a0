// Scalar types and strided images, for code with and without torch.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <type_traits>

#include "macros.h"

namespace dhvt {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// Sums over pixels are taken in float32, in float64 only for float64 input.
template <typename scalar_t>
using acc_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

// A [B,C,H,W] tensor read where it lies: contiguous, channels_last or any other strides.
template <typename scalar_t>
struct ImageView {
  scalar_t* data;
  int64_t batch, channels, height, width;
  int64_t batch_stride, channel_stride, row_stride, column_stride;

  DHVT_HD scalar_t* pixel(int64_t b, int64_t y, int64_t x) const {
    return data + b * batch_stride + y * row_stride + x * column_stride;
  }
};

}  // namespace dhvt
