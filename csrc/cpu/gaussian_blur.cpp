// Gaussian smoothing that stops at the border, at masked pixels and at NaN. A task is a range
// of rows, as many columns wide as stay in the cache; every pixel is read little more than once.
#include <algorithm>
#include <cmath>
#include <memory>

#include "common.h"
#include "cpu/levels/gaussian_blur_kernels.h"

namespace dhvt {
namespace {

// The kernel is cut at 4 sigma; there is nothing beyond the image.
int64_t blur_radius(double sigma, int64_t size) {
  return std::max<int64_t>(int64_t(std::min(4 * sigma + 0.5, double(size - 1))), 0);
}

template <typename scalar_t>
void blur(const Tensor& images, const std::optional<Tensor>& mask, double sigma, bool adjoint, const Tensor& total,
          const Tensor& out) {
  using acc = acc_t<scalar_t>;
  const int64_t batch = images.size(0), height = images.size(2), width = images.size(3);
  const int64_t radius_y = blur_radius(sigma, height), radius_x = blur_radius(sigma, width);
  std::vector<acc> weights(std::max(radius_y, radius_x) + 1);
  for (size_t d = 0; d < weights.size(); ++d) weights[d] = acc(std::exp(-0.5 * (d / sigma) * (d / sigma)));
  const Blur<scalar_t> args{image_view<scalar_t>(images),
                            mutable_image_view<scalar_t>(out),
                            data<bool>(mask),
                            mutable_data<acc>(total),
                            weights.data(),
                            radius_y,
                            radius_x,
                            std::max<int64_t>(256, (radius_x + kBlurAlign - 1) / kBlurAlign * kBlurAlign)};
  const int64_t across = (width + args.columns - 1) / args.columns;
  const auto rows = DHVT_AT_LEVEL(blur_rows<scalar_t>);
  // A range begins with a radius of rows that belong to the one before.
  const int64_t grain = std::max<int64_t>(16, 2 * radius_y);
  torch::stable::parallel_for(0, batch * across * height, grain, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<acc[]> scratch(new acc[args.scratch()]);
    for (int64_t next; begin < end; begin = next) {
      const int64_t column = begin / height, y = begin % height;
      next = std::min(end, (column + 1) * height);
      rows(args, adjoint, column / across, column % across * args.columns, y, y + next - begin, scratch.get());
    }
  });
}

std::tuple<Tensor, Tensor> gaussian_blur(const Tensor& images, const std::optional<Tensor>& mask, double sigma) {
  const ScalarType type = images.scalar_type();
  check(images, "images [B,C,H,W]", type, {-1, -1, -1, -1});
  check(mask, "mask [B,H,W]", ScalarType::Bool, {images.size(0), images.size(2), images.size(3)});
  STD_TORCH_CHECK(sigma > 0, "gaussian_blur: expected sigma > 0; found ", sigma);
  Tensor out = empty_image_like(images, type);
  Tensor total = empty({images.size(0), images.size(2), images.size(3)}, acc_type(type), images);
  const auto mask_ = dense(mask);
  dispatch_floating(type, "gaussian_blur",
                    [&](auto tag) { blur<typename decltype(tag)::type>(images, mask_, sigma, false, total, out); });
  return {out, total};
}

Tensor gaussian_blur_backward(const Tensor& grad, const Tensor& total, double sigma) {
  const ScalarType type = grad.scalar_type();
  check(grad, "grad [B,C,H,W]", type, {-1, -1, -1, -1});
  check(total, "total [B,H,W]", acc_type(type), {grad.size(0), grad.size(2), grad.size(3)});
  STD_TORCH_CHECK(sigma > 0, "gaussian_blur_backward: expected sigma > 0; found ", sigma);
  Tensor out = empty_image_like(grad, type);
  const Tensor total_ = dense(total);
  dispatch_floating(type, "gaussian_blur_backward", [&](auto tag) {
    blur<typename decltype(tag)::type>(grad, std::nullopt, sigma, true, total_, out);
  });
  return out;
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("gaussian_blur", TORCH_BOX(&dhvt::gaussian_blur));
  m.impl("gaussian_blur_backward", TORCH_BOX(&dhvt::gaussian_blur_backward));
}
