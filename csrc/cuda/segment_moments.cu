// Statistics of every segment in one pass over the pixels, and the derivative of mean and m2.
#include "segment_moments_host.h"

#include "cuda/segment_reduce.cuh"

namespace dhvt {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> segment_moments(const Tensor& features, const Tensor& labels,
                                                                           int64_t num_segments) {
  const Launcher launch(features);
  return segment_moments_checked(
      features, labels, num_segments,
      [&](auto tag, const Tensor& features, const Tensor& labels, const Tensor& count, const Tensor& mean,
          const Tensor& m2, const Tensor& centroid, const Tensor& box, const Tensor& boundary) {
        using scalar_t = typename decltype(tag)::type;
        using acc = acc_t<scalar_t>;
        const auto view = image_view<scalar_t>(features);
        const MomentsOperator<scalar_t> op{
            view,
            {view.channels, mutable_data<acc>(mean), mutable_data<acc>(m2), mutable_data<int32_t>(count),
             mutable_data<acc>(centroid), mutable_data<int32_t>(box), mutable_data<int32_t>(boundary)}};
        reduce_segments(launch, op, labels, num_segments);
      });
}

template <typename scalar_t>
struct MomentsGradient {
  using acc = acc_t<scalar_t>;
  const acc* grad_mean;  // [B,K,C]
  const acc* grad_m2;    // [B,K,C]
  ImageView<const scalar_t> features;
  const int32_t* labels;  // [B,H,W]
  const int32_t* count;   // [B,K]
  const acc* mean;        // [B,K,C]
  ImageView<scalar_t> out;
  int64_t num_segments;

  // Channels [first, last) of a pixel.
  __device__ __forceinline__ void channels(int64_t b, int64_t y, int64_t x, int64_t first, int64_t last) const {
    const int32_t label = labels[(b * features.height + y) * features.width + x];
    const bool inside = label >= 0 && label < num_segments;
    const int64_t segment = b * num_segments + (inside ? label : 0), table = segment * features.channels;
    const acc n = inside ? static_cast<acc>(count[segment]) : acc(1);
    const scalar_t* from = features.pixel(b, y, x);
    scalar_t* to = out.pixel(b, y, x);
    for (int64_t c = first; c < last; ++c) {
      acc gradient = 0;
      if (inside)
        gradient = moments_gradient(grad_mean[table + c], grad_m2[table + c], n, mean[table + c],
                                    static_cast<acc>(from[c * features.channel_stride]));
      to[c * out.channel_stride] = static_cast<scalar_t>(gradient);
    }
  }
};

// One thread per pixel, neighbours along a row: 4 + b C bytes in, b C out; the tables' rows come from the caches.
template <typename scalar_t>
struct MomentsGradientPlanes : MomentsGradient<scalar_t> {
  __device__ void operator()(int64_t b, int64_t y, int64_t x) const { this->channels(b, y, x, 0, this->out.channels); }
};

// channels_last: one thread per number, neighbours along the channels.
template <typename scalar_t>
struct MomentsGradientPixels : MomentsGradient<scalar_t> {
  __device__ void operator()(int64_t b, int64_t pixel, int64_t c) const {
    this->channels(b, pixel / this->out.width, pixel % this->out.width, c, c + 1);
  }
};

Tensor segment_moments_backward(const Tensor& grad_mean, const Tensor& grad_m2, const Tensor& features,
                                const Tensor& labels, const Tensor& count, const Tensor& mean) {
  const Launcher launch(features);
  return segment_moments_backward_checked(
      grad_mean, grad_m2, features, labels, count, mean,
      [&](auto tag, const Tensor& grad_mean, const Tensor& grad_m2, const Tensor& features, const Tensor& labels,
          const Tensor& count, const Tensor& mean, const Tensor& out) {
        using scalar_t = typename decltype(tag)::type;
        using acc = acc_t<scalar_t>;
        const MomentsGradient<scalar_t> gradient{
            data<acc>(grad_mean), data<acc>(grad_m2), image_view<scalar_t>(features),    data<int32_t>(labels),
            data<int32_t>(count), data<acc>(mean),    mutable_image_view<scalar_t>(out), count.size(1)};
        const auto& view = gradient.out;
        if (is_channels_last(out))
          for_each_pixel(launch, view.batch, view.height * view.width, view.channels,
                         MomentsGradientPixels<scalar_t>{gradient});
        else
          for_each_pixel(launch, view.batch, view.height, view.width, MomentsGradientPlanes<scalar_t>{gradient});
      });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) {
  m.impl("segment_moments", TORCH_BOX(&dhvt::segment_moments));
  m.impl("segment_moments_backward", TORCH_BOX(&dhvt::segment_moments_backward));
}
