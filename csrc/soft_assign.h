// Mathematics of soft assignment: what one pixel, one candidate and one centre compute. Shared by CPU and CUDA.
//
// Cells of side `cell` tile the image. A pixel's candidates k = 0..8 are the centres of the 3x3 cells around its own, in
// raster order, so k = 4 is its own cell. With f a pixel's features and p its position (y, x),
//   z_k = -(|f - mu_k|^2 + kappa2 |p - s_k|^2) / T,   kappa2 = (compactness / cell)^2,   a = softmax(z).
// A term that is the same for all candidates of a pixel cancels in the softmax, so both are written as affine functions of
// x = (f - shift, p - origin), where shift and origin belong to the cell: z_k = coefficient_k . x + bias_k.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "macros.h"

namespace dhvt {

constexpr int kCandidates = 9;
constexpr int kOwnCell = 4;

// Compactness and temperature as the kernels use them.
template <typename acc>
struct Metric {
  acc compactness, kappa2, inverse_temperature;

  DHVT_HD Metric(acc compactness_, acc temperature, int64_t cell)
      : compactness(compactness_),
        kappa2((compactness_ / acc(cell)) * (compactness_ / acc(cell))),
        inverse_temperature(acc(1) / temperature) {}
};

// The cells of an image.
struct CellGrid {
  int64_t height, width, cell, rows, columns;

  DHVT_HD CellGrid(int64_t height_, int64_t width_, int64_t cell_)
      : height(height_),
        width(width_),
        cell(cell_),
        rows((height_ + cell_ - 1) / cell_),
        columns((width_ + cell_ - 1) / cell_) {}

  DHVT_HD int64_t cells() const { return rows * columns; }

  // The centre that candidate k of cell (row, column) names; -1 outside the image.
  DHVT_HD int64_t candidate(int64_t row, int64_t column, int k) const {
    const int64_t r = row + k / 3 - 1, c = column + k % 3 - 1;
    return r >= 0 && r < rows && c >= 0 && c < columns ? r * columns + c : -1;
  }
};

// e^x for x <= 0, relative error below 2e-7; 0 below the smallest normal number. Written so that compilers vectorise it.
DHVT_HD float exp_nonpositive(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  const float shifted = clamped * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the low bits hold the rounded exponent
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t bits, exponent;
  std::memcpy(&bits, &p, 4);
  std::memcpy(&exponent, &shifted, 4);
  bits += exponent << 23;  // the constant's own bits fall off the top
  std::memcpy(&p, &bits, 4);
  return x < -87.0f ? 0.0f : p;
}

DHVT_HD double exp_nonpositive(double x) { return std::exp(x); }

// A pixel takes part if the squared distances that it enters cannot overflow; NaN and infinity never take part.
template <typename acc>
DHVT_HD bool squares_are_finite(acc sum_of_squares) {
  const acc scaled = sum_of_squares * acc(16);
  return scaled - scaled == acc(0);
}

// z_k = sum_d coefficient[d] x[d] + bias, from the centre relative to (shift, origin): one channel.
template <typename acc>
DHVT_HD acc logit_coefficient(acc relative, acc weight, const Metric<acc>& metric) {
  return acc(2) * weight * relative * metric.inverse_temperature;
}

template <typename acc>
DHVT_HD acc logit_bias(acc sum_of_weighted_squares, const Metric<acc>& metric) {
  return -sum_of_weighted_squares * metric.inverse_temperature;
}

// Derivative of the softmax: dz = a (da - sum_k a_k da_k).
template <typename acc>
DHVT_HD acc logit_gradient(acc a, acc grad_a, acc inner) {
  return a * (grad_a - inner);
}

}  // namespace dhvt
