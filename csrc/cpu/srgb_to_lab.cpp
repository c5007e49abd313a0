// sRGB to CIELAB: one task per image row, which is copied to a planar scratch, so any layout is read where it lies.
#include "srgb_to_lab_host.h"

#include "cpu/levels/srgb_to_lab_kernels.h"

namespace dhvt {
namespace {

// Calls body(b, y, x) for every piece of kLabPixels of every row.
template <typename Body>
void for_each_piece(int64_t batch, int64_t height, int64_t width, const Body& body) {
  parallel(
      batch * height,
      [&](int64_t task) {
        for (int64_t x = 0; x < width; x += kLabPixels) body(task / height, task % height, x);
      },
      8);
}

Tensor srgb_to_lab(const Tensor& images) {
  return srgb_to_lab_checked(images, [](auto tag, const Tensor& images, const Tensor& lab) {
    using scalar_t = typename decltype(tag)::type;
    const auto view = image_view<scalar_t>(images);
    const auto out = mutable_image_view<acc_t<scalar_t>>(lab);
    const auto row = DHVT_AT_LEVEL(lab_row<scalar_t>);
    for_each_piece(view.batch, view.height, view.width,
                   [&](int64_t b, int64_t y, int64_t x) { row(view, out, b, y, x); });
  });
}

Tensor srgb_to_lab_backward(const Tensor& grad, const Tensor& images) {
  return srgb_to_lab_backward_checked(
      grad, images, [](auto tag, const Tensor& grad, const Tensor& images, const Tensor& grad_images) {
        using scalar_t = typename decltype(tag)::type;
        const auto view = image_view<scalar_t>(images);
        const auto upstream = image_view<acc_t<scalar_t>>(grad);
        const auto out = mutable_image_view<scalar_t>(grad_images);
        const auto row = DHVT_AT_LEVEL(lab_row_backward<scalar_t>);
        for_each_piece(view.batch, view.height, view.width,
                       [&](int64_t b, int64_t y, int64_t x) { row(view, upstream, out, b, y, x); });
      });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("srgb_to_lab", TORCH_BOX(&dhvt::srgb_to_lab));
  m.impl("srgb_to_lab_backward", TORCH_BOX(&dhvt::srgb_to_lab_backward));
}
