// sRGB to CIELAB: one task per image row, which is copied to a planar scratch, so any layout is read where it lies.
#include "srgb_to_lab.h"

#include "common.h"

namespace dhvt {
namespace {

template <typename acc>
DHVT_CLONES void convert_row(const acc* rows, acc* out, int64_t width) {
  for (int64_t x = 0; x < width; ++x) {
    const acc srgb[3] = {rows[x], rows[width + x], rows[2 * width + x]};
    acc lab[3];
    lab_from_srgb(srgb, lab);
    out[x] = lab[0];
    out[width + x] = lab[1];
    out[2 * width + x] = lab[2];
  }
}

template <typename acc>
DHVT_CLONES void convert_row_backward(const acc* rows, acc* grad, int64_t width) {
  for (int64_t x = 0; x < width; ++x) {
    const acc srgb[3] = {rows[x], rows[width + x], rows[2 * width + x]};
    acc g[3] = {grad[x], grad[width + x], grad[2 * width + x]};
    lab_from_srgb_backward(srgb, g);
    grad[x] = g[0];
    grad[width + x] = g[1];
    grad[2 * width + x] = g[2];
  }
}

// rows [3,W] from row y of image b; uint8 is scaled to [0, 1].
template <typename scalar_t, typename acc>
void load_row(const ImageView<const scalar_t>& view, int64_t b, int64_t y, acc* rows) {
  constexpr acc divisor = std::is_same_v<scalar_t, uint8_t> ? acc(255) : acc(1);
  for (int64_t c = 0; c < 3; ++c) {
    const scalar_t* source = view.pixel(b, y, 0) + c * view.channel_stride;
    for (int64_t x = 0; x < view.width; ++x) rows[c * view.width + x] = acc(source[x * view.column_stride]) / divisor;
  }
}

template <typename scalar_t, typename acc>
void store_row(const ImageView<scalar_t>& view, int64_t b, int64_t y, const acc* rows) {
  for (int64_t c = 0; c < 3; ++c)
    for (int64_t x = 0; x < view.width; ++x)
      view.pixel(b, y, x)[c * view.channel_stride] = scalar_t(rows[c * view.width + x]);
}

template <typename scalar_t, typename acc>
void convert(const Tensor& images, const Tensor& lab) {
  const auto view = image_view<scalar_t>(images);
  const auto out = mutable_image_view<acc>(lab);
  parallel(
      view.batch * view.height,
      [&](int64_t task) {
        const int64_t b = task / view.height, y = task % view.height;
        std::vector<acc> rows(6 * view.width);
        load_row(view, b, y, rows.data());
        convert_row(rows.data(), &rows[3 * view.width], view.width);
        store_row(out, b, y, &rows[3 * view.width]);
      },
      8);
}

Tensor srgb_to_lab(const Tensor& images) {
  const ScalarType type = images.scalar_type();
  check(images, "images [B,3,H,W]", type, {-1, 3, -1, -1});
  Tensor lab = empty({images.size(0), 3, images.size(2), images.size(3)}, acc_type(type), images);
  if (type == ScalarType::Byte) {
    convert<uint8_t, float>(images, lab);
    return lab;
  }
  dispatch_floating(type, "srgb_to_lab", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    convert<scalar_t, acc_t<scalar_t>>(images, lab);
  });
  return lab;
}

Tensor srgb_to_lab_backward(const Tensor& grad, const Tensor& images) {
  const ScalarType type = images.scalar_type();
  check(images, "images [B,3,H,W]", type, {-1, 3, -1, -1});
  check(grad, "grad [B,3,H,W]", acc_type(type), {images.size(0), 3, images.size(2), images.size(3)});
  Tensor grad_images = empty_image_like(images, type);
  dispatch_floating(type, "srgb_to_lab_backward", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    const auto view = image_view<scalar_t>(images);
    const auto upstream = image_view<acc>(grad);
    const auto out = mutable_image_view<scalar_t>(grad_images);
    parallel(
        view.batch * view.height,
        [&](int64_t task) {
          const int64_t b = task / view.height, y = task % view.height;
          std::vector<acc> rows(6 * view.width);
          load_row(view, b, y, rows.data());
          load_row(upstream, b, y, &rows[3 * view.width]);
          convert_row_backward(rows.data(), &rows[3 * view.width], view.width);
          store_row(out, b, y, &rows[3 * view.width]);
        },
        8);
  });
  return grad_images;
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("srgb_to_lab", TORCH_BOX(&dhvt::srgb_to_lab));
  m.impl("srgb_to_lab_backward", TORCH_BOX(&dhvt::srgb_to_lab_backward));
}
