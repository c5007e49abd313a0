// sRGB to CIELAB: checks and outputs, shared by every device.
#pragma once

#include "common.h"

namespace dhvt {

// kernel(TypeTag of the images, images [B,3,H,W], lab [B,3,H,W]); images are uint8, too.
template <typename Kernel>
Tensor srgb_to_lab_checked(const Tensor& images, const Kernel& kernel) {
  const ScalarType type = images.scalar_type();
  check(images, "images [B,3,H,W]", type, {-1, 3, -1, -1});
  Tensor lab = empty({images.size(0), 3, images.size(2), images.size(3)}, acc_type(type), images);
  if (type == ScalarType::Byte)
    kernel(TypeTag<uint8_t>{}, images, lab);
  else
    dispatch_floating(type, "srgb_to_lab", [&](auto tag) { kernel(tag, images, lab); });
  return lab;
}

// kernel(TypeTag, grad [B,3,H,W], images [B,3,H,W], grad_images [B,3,H,W])
template <typename Kernel>
Tensor srgb_to_lab_backward_checked(const Tensor& grad, const Tensor& images, const Kernel& kernel) {
  const ScalarType type = images.scalar_type();
  check(images, "images [B,3,H,W]", type, {-1, 3, -1, -1});
  check(grad, "grad [B,3,H,W]", acc_type(type), {images.size(0), 3, images.size(2), images.size(3)});
  Tensor grad_images = empty_image_like(images, type);
  dispatch_floating(type, "srgb_to_lab_backward", [&](auto tag) { kernel(tag, grad, images, grad_images); });
  return grad_images;
}

}  // namespace dhvt
