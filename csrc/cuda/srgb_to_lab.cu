// sRGB to CIELAB and its derivative, one thread per pixel: reads and writes three numbers, the derivative reads six.
#include "srgb_to_lab.h"

#include "cuda/launch.cuh"
#include "srgb_to_lab_host.h"

namespace dhvt {
namespace {

// uint8 is scaled to [0, 1].
template <typename scalar_t>
__device__ __forceinline__ void load_srgb(const ImageView<const scalar_t>& images, int64_t b, int64_t y, int64_t x,
                                          acc_t<scalar_t> srgb[3]) {
  using acc = acc_t<scalar_t>;
  for (int c = 0; c < 3; ++c) {
    srgb[c] = static_cast<acc>(images.pixel(b, y, x)[c * images.channel_stride]);
    if (std::is_same_v<scalar_t, uint8_t>) srgb[c] /= acc(255);
  }
}

template <typename scalar_t>
struct LabPixel {
  using acc = acc_t<scalar_t>;
  ImageView<const scalar_t> images;
  ImageView<acc> lab;

  __device__ void operator()(int64_t b, int64_t y, int64_t x) const {
    acc srgb[3], linear[3], curve[3], out[3], slope;
    load_srgb(images, b, y, x, srgb);
    for (int c = 0; c < 3; ++c) linear[c] = linear_light(srgb[c], &slope);
    for (int c = 0; c < 3; ++c) curve[c] = lab_curve(xyz_from_linear(linear, c), &slope);
    lab_from_curve(curve, out);
    for (int c = 0; c < 3; ++c) lab.pixel(b, y, x)[c * lab.channel_stride] = out[c];
  }
};

template <typename scalar_t>
struct LabPixelBackward {
  using acc = acc_t<scalar_t>;
  ImageView<const scalar_t> images;
  ImageView<const acc> grad;
  ImageView<scalar_t> grad_images;

  __device__ void operator()(int64_t b, int64_t y, int64_t x) const {
    acc srgb[3], g[3];
    load_srgb(images, b, y, x, srgb);
    for (int c = 0; c < 3; ++c) g[c] = grad.pixel(b, y, x)[c * grad.channel_stride];
    lab_from_srgb_backward(srgb, g);
    for (int c = 0; c < 3; ++c)
      grad_images.pixel(b, y, x)[c * grad_images.channel_stride] = static_cast<scalar_t>(g[c]);
  }
};

Tensor srgb_to_lab(const Tensor& images) {
  const Launcher launch(images);
  return srgb_to_lab_checked(images, [&](auto tag, const Tensor& images, const Tensor& lab) {
    using scalar_t = typename decltype(tag)::type;
    for_each_pixel(launch, images.size(0), images.size(2), images.size(3),
                   LabPixel<scalar_t>{image_view<scalar_t>(images), mutable_image_view<acc_t<scalar_t>>(lab)});
  });
}

Tensor srgb_to_lab_backward(const Tensor& grad, const Tensor& images) {
  const Launcher launch(images);
  return srgb_to_lab_backward_checked(
      grad, images, [&](auto tag, const Tensor& grad, const Tensor& images, const Tensor& grad_images) {
        using scalar_t = typename decltype(tag)::type;
        for_each_pixel(launch, images.size(0), images.size(2), images.size(3),
                       LabPixelBackward<scalar_t>{image_view<scalar_t>(images), image_view<acc_t<scalar_t>>(grad),
                                                  mutable_image_view<scalar_t>(grad_images)});
      });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) {
  m.impl("srgb_to_lab", TORCH_BOX(&dhvt::srgb_to_lab));
  m.impl("srgb_to_lab_backward", TORCH_BOX(&dhvt::srgb_to_lab_backward));
}
