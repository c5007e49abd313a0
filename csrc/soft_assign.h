// Mathematics of soft assignment: what one pixel, one candidate and one centre compute. Shared by CPU and CUDA.
//
// Cells of side `cell` tile the image. A pixel's candidates k = 0..8 are the centres of the 3x3 cells around its own,
// in raster order, so k = 4 is its own cell. With f a pixel's features and p its position (y, x),
//   z_k = -(|f - mu_k|^2 + kappa2 |p - s_k|^2) / T,   kappa2 = (compactness / cell)^2,   a = softmax(z).
// A term that is the same for all candidates of a pixel cancels in the softmax. So with x = (1, f - shift, p - origin),
// where shift and origin belong to the cell, the score of a candidate is linear, and a_k is proportional to e^(score_k
// / T):
//   score_k = coefficient_k . x = 2 (mu_k - shift) . (f - shift) - |mu_k - shift|^2 + the same of the positions.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "macros.h"

namespace dhvt {

constexpr int kCandidates = 9;
constexpr int kOwnCell = 4;

// A share below 2^kLeastExponent of the pixel's largest is 0. So the mass of a centre is 0 or at least 2^-84, 1 / mass
// and what it multiplies stay finite, and products with shares are no denormals, which cost CPUs a hundred cycles each.
constexpr int kLeastExponent = -80;

// Compactness and temperature as the kernels use them, bounded so that nothing finite overflows. NaN stays NaN.
template <typename acc>
struct Metric {
  acc compactness, kappa2, inverse_temperature;
  acc scale;  // of a score, so that a share is 2^(scale * score)

  DHVT_HD Metric(acc compactness_, acc temperature, int64_t cell) : compactness(compactness_) {
    const acc kappa = compactness_ / acc(cell), square = kappa * kappa;
    kappa2 = square > acc(1e20) ? acc(1e20) : square;
    inverse_temperature = acc(1) / (temperature < acc(1.2e-38) ? acc(1.2e-38) : temperature);
    scale = inverse_temperature * acc(1.4426950408889634);
  }
};

// The cells of an image.
struct CellGrid {
  int64_t height, width, cell, rows, columns;

  DHVT_HD CellGrid(int64_t height_, int64_t width_, int64_t cell_)
      : height(height_),
        width(width_),
        cell(cell_),
        rows(height_ > 0 ? (height_ - 1) / cell_ + 1 : 0),
        columns(width_ > 0 ? (width_ - 1) / cell_ + 1 : 0) {}

  DHVT_HD int64_t cells() const { return rows * columns; }

  // Size of the cells of a row or column; the last may be smaller.
  DHVT_HD int64_t row_height(int64_t row) const { return row + 1 < rows ? cell : height - row * cell; }
  DHVT_HD int64_t column_width(int64_t column) const { return column + 1 < columns ? cell : width - column * cell; }

  // The middle of the pixels of a row or column of cells.
  template <typename acc>
  DHVT_HD acc middle_y(int64_t row) const {
    return acc(row * cell) + acc(row_height(row) - 1) / 2;
  }
  template <typename acc>
  DHVT_HD acc middle_x(int64_t column) const {
    return acc(column * cell) + acc(column_width(column) - 1) / 2;
  }

  // The centre that candidate k of cell (row, column) names; -1 outside the image.
  DHVT_HD int64_t candidate(int64_t row, int64_t column, int k) const {
    const int64_t r = row + k / 3 - 1, c = column + k % 3 - 1;
    return r >= 0 && r < rows && c >= 0 && c < columns ? r * columns + c : -1;
  }
};

// 2^r for 0 <= r <= 1, relative error below 1e-7 before rounding, exact at 0. `real` is float or a vector of floats.
template <typename real>
DHVT_HD real exp2_fraction(real r) {
  real p = 1.865033759e-3f * r + 9.022697806e-3f;
  p = p * r + 5.579448491e-2f;
  p = p * r + 2.401666045e-1f;
  p = p * r + 6.931510568e-1f;
  return p * r + 1.0f;
}

// A pixel takes part if the squared distances that it enters cannot overflow; NaN and infinity never take part.
template <typename real>
DHVT_HD auto squares_are_finite(real sum_of_squares) {
  const real scaled = sum_of_squares * 16;
  return scaled - scaled == real{};
}

}  // namespace dhvt
