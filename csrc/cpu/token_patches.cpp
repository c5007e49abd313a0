// Boxes of the image resampled to P x P, with the share of the samples that belong to the segment.
#include "token_patches_host.h"

#include <algorithm>

#include "cpu/levels/token_patches_kernels.h"

namespace dhvt {
namespace {

// The arrays of one worker.
template <typename acc>
class Scratch {
 public:
  explicit Scratch(int64_t size)
      : padded_((size + kPatchPadding - 1) / kPatchPadding * kPatchPadding),
        places_(6 * padded_),
        numbers_(6 * padded_) {}

  PatchScratch<acc> get() {
    const auto place = [&](int64_t i) { return places_.data() + i * padded_; };
    const auto number = [&](int64_t i) { return numbers_.data() + i * padded_; };
    return {{place(0), place(1), number(0)}, {place(2), place(3), number(1)}, place(4), place(5), number(2)};
  }

 private:
  int64_t padded_;
  std::vector<int64_t> places_;
  std::vector<acc> numbers_;
};

// One task per box. Reads each pixel of a box at most once per channel, writes b (C + 1) P^2 bytes.
// label [B,H,W], box [B,K,4] -> patches [B,K,C,P,P], masks [B,K,1,P,P].
template <typename scalar_t>
void patches_of(const ImageView<const scalar_t>& image, const int32_t* label, const int32_t* box, int64_t num_segments,
                int64_t size, scalar_t* patches, scalar_t* masks) {
  const int64_t area = size * size, channels = image.channels;
  const auto of_box = DHVT_AT_LEVEL(patch_of_box<scalar_t>);
  torch::stable::parallel_for(0, image.batch * num_segments, 16, [&](int64_t begin, int64_t end) {
    Scratch<acc_t<scalar_t>> scratch(size);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / num_segments;
      const int32_t* corner = box + task * 4;
      scalar_t* patch = patches + task * channels * area;
      scalar_t* mask = masks + task * area;
      if (is_empty(corner) || image.height == 0 || image.width == 0) {
        std::fill(patch, patch + channels * area, scalar_t(0));
        std::fill(mask, mask + area, scalar_t(0));
        continue;
      }
      of_box(image, label + b * image.height * image.width, corner, b, task % num_segments, size, scratch.get(), patch,
             mask);
    }
  });
}

std::tuple<Tensor, Tensor> token_patches(const Tensor& image, const Tensor& labels, const Tensor& boxes, int64_t size) {
  return token_patches_checked(image, labels, boxes, size,
                               [&](auto tag, const Tensor& image, const Tensor& labels, const Tensor& boxes,
                                   const Tensor& patches, const Tensor& masks) {
                                 using scalar_t = typename decltype(tag)::type;
                                 patches_of(image_view<scalar_t>(image), data<int32_t>(labels), data<int32_t>(boxes),
                                            boxes.size(1), size, mutable_data<scalar_t>(patches),
                                            mutable_data<scalar_t>(masks));
                               });
}

constexpr int64_t kBand = 32;  // rows per task of the backward

// The transpose of the resampling. One task per band of rows of an image: it takes the boxes in order, so every pixel
// adds its samples in the same order whatever the number of threads, and no two tasks write the same pixel.
// grad [B,K,C,P,P], box [B,K,4] -> out [B,C,H,W].
template <typename scalar_t>
void scatter_patches(const scalar_t* grad, const int32_t* box, int64_t num_segments, int64_t size,
                     const ImageView<scalar_t>& out) {
  using acc = acc_t<scalar_t>;
  const int64_t area = size * size, channels = out.channels, height = out.height, width = out.width;
  const int64_t bands = width > 0 ? (height + kBand - 1) / kBand : 0;
  const auto add = DHVT_AT_LEVEL(add_patch_gradient<scalar_t>);
  torch::stable::parallel_for(0, out.batch * bands, 1, [&](int64_t begin, int64_t end) {
    Scratch<acc> scratch(size);
    const auto [y, x, low, high, rows] = scratch.get();
    std::vector<acc> planes(channels * kBand * width), spread(width);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / bands, top = task % bands * kBand, bottom = std::min(top + kBand, height);
      std::fill(planes.begin(), planes.end(), acc(0));
      for (int64_t k = 0; k < num_segments; ++k) {
        const int32_t* corner = box + (b * num_segments + k) * 4;
        if (is_empty(corner) || clamp_index(corner[0], height) >= bottom || clamp_index(corner[2], height) < top)
          continue;
        set_axis(y, corner[0], corner[2], size, height);
        set_axis(x, corner[1], corner[3], size, width);
        for (int64_t c = 0; c < channels; ++c)
          add(grad + ((b * num_segments + k) * channels + c) * area, y, x, size, top, bottom, width, spread.data(),
              planes.data() + c * kBand * width);
      }
      for (int64_t c = 0; c < channels; ++c) {
        const acc* plane = planes.data() + c * kBand * width;
        scalar_t* target = out.data + (b * channels + c) * height * width + top * width;
        for (int64_t i = 0; i < (bottom - top) * width; ++i) target[i] = scalar_t(plane[i]);
      }
    }
  });
}

Tensor token_patches_backward(const Tensor& grad_patches, const Tensor& boxes, int64_t height, int64_t width) {
  return token_patches_backward_checked(grad_patches, boxes, height, width,
                                        [&](auto tag, const Tensor& grad, const Tensor& boxes, const Tensor& out) {
                                          using scalar_t = typename decltype(tag)::type;
                                          scatter_patches(data<scalar_t>(grad), data<int32_t>(boxes), boxes.size(1),
                                                          grad.size(3), mutable_image_view<scalar_t>(out));
                                        });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("token_patches", TORCH_BOX(&dhvt::token_patches));
  m.impl("token_patches_backward", TORCH_BOX(&dhvt::token_patches_backward));
}
