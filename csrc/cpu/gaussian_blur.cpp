// Gaussian smoothing that stops at the border, at masked pixels and at NaN. A task is a range
// of rows, as many columns wide as stay in the cache; every pixel is read little more than once.
#include "gaussian_blur_host.h"

#include <algorithm>
#include <memory>

#include "cpu/levels/gaussian_blur_kernels.h"

namespace dhvt {
namespace {

template <typename scalar_t>
void blur(const Tensor& images, const std::optional<Tensor>& mask, double sigma, bool adjoint, const Tensor& total,
          const Tensor& out) {
  using acc = acc_t<scalar_t>;
  const int64_t batch = images.size(0), height = images.size(2), width = images.size(3);
  const int64_t radius_y = blur_radius(sigma, height), radius_x = blur_radius(sigma, width);
  std::vector<acc> weights(std::max(radius_y, radius_x) + 1);
  for (size_t d = 0; d < weights.size(); ++d) weights[d] = acc(blur_weight(d, sigma));
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
  return gaussian_blur_checked(
      images, mask, sigma,
      [&](auto tag, const Tensor& images, const std::optional<Tensor>& mask, const Tensor& total, const Tensor& out) {
        blur<typename decltype(tag)::type>(images, mask, sigma, false, total, out);
      });
}

Tensor gaussian_blur_backward(const Tensor& grad, const Tensor& total, double sigma) {
  return gaussian_blur_backward_checked(
      grad, total, sigma, [&](auto tag, const Tensor& grad, const Tensor& total, const Tensor& out) {
        blur<typename decltype(tag)::type>(grad, std::nullopt, sigma, true, total, out);
      });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("gaussian_blur", TORCH_BOX(&dhvt::gaussian_blur));
  m.impl("gaussian_blur_backward", TORCH_BOX(&dhvt::gaussian_blur_backward));
}
