// sRGB to CIELAB: what is compiled per level.
#pragma once

#include "cpu/level.h"
#include "image.h"

namespace dhvt {

// Pixels that one call converts through a scratch on the stack.
constexpr int64_t kLabPixels = 512;

// Converts row y of image b from column x on, at most kLabPixels; uint8 is scaled to [0, 1].
DHVT_PER_LEVEL(template <typename scalar_t>
               void lab_row(const ImageView<const scalar_t>& images, const ImageView<acc_t<scalar_t>>& lab, int64_t b,
                            int64_t y, int64_t x);
               // The gradient of the images from that of Lab.
               template <typename scalar_t>
               void lab_row_backward(const ImageView<const scalar_t>& images,
                                     const ImageView<const acc_t<scalar_t>>& grad,
                                     const ImageView<scalar_t>& grad_images, int64_t b, int64_t y, int64_t x);)

}  // namespace dhvt
