// Gaussian smoothing: what is compiled per level.
#pragma once

#include <bit>

#include "cpu/level.h"
#include "image.h"

namespace dhvt {

constexpr int64_t kBlurAlign = 64;  // columns are smoothed so many at a time

// Smooths with the separable kernel w_d, d = -radius..radius, over the pixels that exist:
//   out_i = sum_j w_ij e_j x_j / total_i,  total_i = sum_j w_ij e_j.
// The adjoint is the same sum with the division before it: out_j = sum_i w_ij e_i x_i / total_i. Pixels that do not
// exist are returned as they came.
template <typename scalar_t>
struct Blur {
  using acc = acc_t<scalar_t>;
  ImageView<const scalar_t> images;
  ImageView<scalar_t> out;
  const bool* mask;    // [B,H,W] or null; not read by the adjoint
  acc* total;          // [B,H,W]; 0 where a pixel does not exist. Written by the forward, read by the adjoint.
  const acc* weights;  // [1 + the larger radius]
  int64_t radius_y, radius_x;
  int64_t columns;  // of a task, a multiple of kBlurAlign

  int64_t line() const { return columns + 2 * radius_x; }
  // Rows that the kernel spans, rounded up to a power of two.
  int64_t ring() const { return int64_t(std::bit_ceil(uint64_t(2 * radius_y + 1))); }
  int64_t scratch() const { return (images.channels + 1) * (line() + (ring() + 1) * columns) + ring() * columns; }
};

// Rows [y_begin, y_end) of image b, from column x on.
DHVT_PER_LEVEL(template <typename scalar_t> void blur_rows(const Blur<scalar_t>& blur, bool adjoint, int64_t b,
                                                           int64_t x, int64_t y_begin, int64_t y_end,
                                                           acc_t<scalar_t>* scratch);)

}  // namespace dhvt
