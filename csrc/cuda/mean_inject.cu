// The image with the mean of each segment replaced by its token: the means, then one pass over the pixels.
#include "mean_inject_host.h"

#include "cuda/segment_sum.cuh"

namespace dhvt {
namespace {

template <typename scalar_t>
struct Inject {
  using acc = acc_t<scalar_t>;
  ImageView<const scalar_t> image;
  const int32_t* labels;  // [B,H,W]
  const acc* tokens;      // [B,K,C]
  const acc* sums;        // [B,K,C]
  const acc* mass;        // [B,K]
  ImageView<scalar_t> out;
  int64_t num_segments;

  // Channels [first, last) of a pixel.
  __device__ __forceinline__ void channels(int64_t b, int64_t y, int64_t x, int64_t first, int64_t last) const {
    const int32_t label = labels[(b * image.height + y) * image.width + x];
    const bool inside = label >= 0 && label < num_segments;
    const int64_t segment = b * num_segments + (inside ? label : 0), table = segment * image.channels;
    const acc n = inside ? mass[segment] : acc(1);
    const scalar_t* from = image.pixel(b, y, x);
    scalar_t* to = out.pixel(b, y, x);
    for (int64_t c = first; c < last; ++c) {
      const scalar_t own = from[c * image.channel_stride];
      to[c * out.channel_stride] =
          inside ? static_cast<scalar_t>(static_cast<acc>(own) + (tokens[table + c] - sums[table + c] / n)) : own;
    }
  }
};

// One thread per pixel, neighbours along a row: 4 + b C bytes in, b C out; the tables' rows come from the caches.
template <typename scalar_t>
struct InjectPlanes : Inject<scalar_t> {
  __device__ void operator()(int64_t b, int64_t y, int64_t x) const { this->channels(b, y, x, 0, this->out.channels); }
};

// channels_last: one thread per number, neighbours along the channels.
template <typename scalar_t>
struct InjectPixels : Inject<scalar_t> {
  __device__ void operator()(int64_t b, int64_t pixel, int64_t c) const {
    this->channels(b, pixel / this->out.width, pixel % this->out.width, c, c + 1);
  }
};

Tensor mean_inject(const Tensor& image, const Tensor& tokens, const Tensor& labels) {
  const Launcher launch(image);
  return mean_inject_checked(
      image, tokens, labels,
      [&](auto tag, const Tensor& image, const Tensor& tokens, const Tensor& labels, const Tensor& out) {
        using scalar_t = typename decltype(tag)::type;
        using acc = acc_t<scalar_t>;
        const auto view = image_view<scalar_t>(image);
        const int64_t num_segments = tokens.size(1), segments = view.batch * num_segments;
        const Tensor memory = empty({segments * (view.channels + 1)}, acc_type(image.scalar_type()), image);
        acc* mass = mutable_data<acc>(memory);
        acc* sums = mass + segments;
        sum_over_segments(launch, view, labels, static_cast<const acc*>(nullptr), num_segments, sums, mass);
        const Inject<scalar_t> inject{
            view,        data<int32_t>(labels), data<acc>(tokens), sums, mass, mutable_image_view<scalar_t>(out),
            num_segments};
        if (is_channels_last(out))
          for_each_pixel(launch, view.batch, view.height * view.width, view.channels, InjectPixels<scalar_t>{inject});
        else
          for_each_pixel(launch, view.batch, view.height, view.width, InjectPlanes<scalar_t>{inject});
      });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) { m.impl("mean_inject", TORCH_BOX(&dhvt::mean_inject)); }
