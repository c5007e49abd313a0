// Gaussian smoothing: checks, outputs and the kernel's extent, shared by every device.
#pragma once

#include <algorithm>

#include "common.h"
#include "gaussian_blur.h"

namespace dhvt {

// The kernel is cut at 4 sigma; there is nothing beyond the image.
inline int64_t blur_radius(double sigma, int64_t size) {
  return std::max<int64_t>(int64_t(std::min(4 * sigma + 0.5, double(size - 1))), 0);
}

// kernel(TypeTag, images [B,C,H,W], mask [B,H,W] or none, total [B,H,W], out [B,C,H,W]); mask and total are dense.
template <typename Kernel>
std::tuple<Tensor, Tensor> gaussian_blur_checked(const Tensor& images, const std::optional<Tensor>& mask, double sigma,
                                                 const Kernel& kernel) {
  const ScalarType type = images.scalar_type();
  check(images, "images [B,C,H,W]", type, {-1, -1, -1, -1});
  check(mask, "mask [B,H,W]", ScalarType::Bool, {images.size(0), images.size(2), images.size(3)});
  STD_TORCH_CHECK(sigma > 0, "gaussian_blur: expected sigma > 0; found ", sigma);
  Tensor out = empty_image_like(images, type);
  Tensor total = empty({images.size(0), images.size(2), images.size(3)}, acc_type(type), images);
  const auto dense_mask = dense(mask);
  dispatch_floating(type, "gaussian_blur", [&](auto tag) { kernel(tag, images, dense_mask, total, out); });
  return {out, total};
}

// kernel(TypeTag, grad [B,C,H,W], total [B,H,W], out [B,C,H,W]); total is dense.
template <typename Kernel>
Tensor gaussian_blur_backward_checked(const Tensor& grad, const Tensor& total, double sigma, const Kernel& kernel) {
  const ScalarType type = grad.scalar_type();
  check(grad, "grad [B,C,H,W]", type, {-1, -1, -1, -1});
  check(total, "total [B,H,W]", acc_type(type), {grad.size(0), grad.size(2), grad.size(3)});
  STD_TORCH_CHECK(sigma > 0, "gaussian_blur_backward: expected sigma > 0; found ", sigma);
  Tensor out = empty_image_like(grad, type);
  const Tensor dense_total = dense(total);
  dispatch_floating(type, "gaussian_blur_backward", [&](auto tag) { kernel(tag, grad, dense_total, out); });
  return out;
}

}  // namespace dhvt
