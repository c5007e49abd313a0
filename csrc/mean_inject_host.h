// Mean injection: checks and output, shared by every device.
#pragma once

#include "common.h"

namespace dhvt {

// kernel(TypeTag of the image, image [B,C,H,W], tokens [B,K,C] in the accumulation dtype, labels [B,H,W],
// out [B,C,H,W]); tokens and labels are dense.
template <typename Kernel>
Tensor mean_inject_checked(const Tensor& image, const Tensor& tokens, const Tensor& labels, const Kernel& kernel) {
  const ScalarType type = image.scalar_type();
  check(image, "image [B,C,H,W]", type, {-1, -1, -1, -1});
  check(tokens, "tokens [B,K,C]", tokens.scalar_type(), {image.size(0), -1, image.size(1)});
  check(labels, "labels [B,H,W]", ScalarType::Int, {image.size(0), image.size(2), image.size(3)});
  Tensor out = empty_image_like(image, type);
  const Tensor dense_tokens = converted(tokens, acc_type(type)), dense_labels = dense(labels);
  dispatch_floating(type, "mean_inject", [&](auto tag) { kernel(tag, image, dense_tokens, dense_labels, out); });
  return out;
}

}  // namespace dhvt
