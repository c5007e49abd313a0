// Boxes resampled to patches: checks and outputs, shared by every device.
#pragma once

#include "common.h"
#include "token_patches.h"

namespace dhvt {

// kernel(TypeTag, image [B,C,H,W], labels [B,H,W], boxes [B,K,4], patches [B,K,C,P,P], masks [B,K,1,P,P]); all but the
// image are dense.
template <typename Kernel>
std::tuple<Tensor, Tensor> token_patches_checked(const Tensor& image, const Tensor& labels, const Tensor& boxes,
                                                 int64_t size, const Kernel& kernel) {
  const ScalarType type = image.scalar_type();
  check(image, "image [B,C,H,W]", type, {-1, -1, -1, -1});
  check(labels, "labels [B,H,W]", ScalarType::Int, {image.size(0), image.size(2), image.size(3)});
  check(boxes, "boxes [B,K,4]", ScalarType::Int, {image.size(0), -1, 4});
  STD_TORCH_CHECK(size >= 1, "size: expected an integer >= 1; found ", size);
  Tensor patches = empty({image.size(0), boxes.size(1), image.size(1), size, size}, type, image);
  Tensor masks = empty({image.size(0), boxes.size(1), 1, size, size}, type, image);
  const Tensor dense_labels = dense(labels), dense_boxes = dense(boxes);
  dispatch_floating(type, "token_patches",
                    [&](auto tag) { kernel(tag, image, dense_labels, dense_boxes, patches, masks); });
  return {patches, masks};
}

// kernel(TypeTag, grad [B,K,C,P,P], boxes [B,K,4], out [B,C,H,W]); all dense.
template <typename Kernel>
Tensor token_patches_backward_checked(const Tensor& grad_patches, const Tensor& boxes, int64_t height, int64_t width,
                                      const Kernel& kernel) {
  const ScalarType type = grad_patches.scalar_type();
  check(boxes, "boxes [B,K,4]", ScalarType::Int, {-1, -1, 4});
  check(grad_patches, "grad_patches [B,K,C,P,P]", type, {boxes.size(0), boxes.size(1), -1, -1, -1});
  const int64_t size = grad_patches.size(3);
  STD_TORCH_CHECK(grad_patches.size(4) == size && size >= 1, "grad_patches [B,K,C,P,P]: expected square patches");
  STD_TORCH_CHECK(height >= 0 && width >= 0, "height, width: expected integers >= 0");
  Tensor out = empty({boxes.size(0), grad_patches.size(2), height, width}, type, grad_patches);
  const Tensor dense_grad = dense(grad_patches), dense_boxes = dense(boxes);
  dispatch_floating(type, "token_patches_backward", [&](auto tag) { kernel(tag, dense_grad, dense_boxes, out); });
  return out;
}

}  // namespace dhvt
