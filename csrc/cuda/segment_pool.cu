// Gather and dot over segments: what the pixels get from their segment's row of a table.
#include "cuda/launch.cuh"
#include "segment_pool_host.h"

namespace dhvt {
namespace {

// The row of a pixel's segment; null if it has none.
template <typename T>
__device__ __forceinline__ const T* row_of(const T* table, int64_t b, int32_t label, int64_t num_segments,
                                           int64_t channels) {
  return label >= 0 && label < num_segments ? table + (b * num_segments + label) * channels : nullptr;
}

template <typename scalar_t>
struct Gather {
  using acc = acc_t<scalar_t>;
  const scalar_t* values;  // [B,K,C]
  const int32_t* labels;   // [B,H,W]
  const acc* weights;      // [B,H,W] or null
  ImageView<scalar_t> out;
  int64_t num_segments;

  __device__ __forceinline__ scalar_t weighted(scalar_t value, int64_t pixel) const {
    return weights ? static_cast<scalar_t>(static_cast<acc>(value) * weights[pixel]) : value;
  }
};

// One thread per pixel, neighbours along a row: 4 bytes in, b C out; the table's rows come from the caches.
template <typename scalar_t>
struct GatherPlanes : Gather<scalar_t> {
  __device__ void operator()(int64_t b, int64_t y, int64_t x) const {
    const auto& out = this->out;
    const int64_t pixel = (b * out.height + y) * out.width + x;
    const scalar_t* row = row_of(this->values, b, this->labels[pixel], this->num_segments, out.channels);
    scalar_t* to = out.pixel(b, y, x);
    for (int64_t c = 0; c < out.channels; ++c)
      to[c * out.channel_stride] = row ? this->weighted(row[c], pixel) : scalar_t(0);
  }
};

// channels_last: one thread per number, neighbours along the channels.
template <typename scalar_t>
struct GatherPixels : Gather<scalar_t> {
  __device__ void operator()(int64_t b, int64_t pixel, int64_t c) const {
    const auto& out = this->out;
    const int64_t of_batch = b * out.height * out.width + pixel;
    const scalar_t* row = row_of(this->values, b, this->labels[of_batch], this->num_segments, out.channels);
    out.data[of_batch * out.channels + c] = row ? this->weighted(row[c], of_batch) : scalar_t(0);
  }
};

Tensor segment_gather(const Tensor& values, const Tensor& labels, const std::optional<Tensor>& weights,
                      bool channels_last) {
  const Launcher launch(values);
  return segment_gather_checked(
      values, labels, weights, channels_last,
      [&](auto tag, const Tensor& values, const Tensor& labels, const std::optional<Tensor>& weights,
          const Tensor& out) {
        using scalar_t = typename decltype(tag)::type;
        const Gather<scalar_t> gather{data<scalar_t>(values), data<int32_t>(labels), data<acc_t<scalar_t>>(weights),
                                      mutable_image_view<scalar_t>(out), values.size(1)};
        const auto& view = gather.out;
        if (is_channels_last(out))
          for_each_pixel(launch, view.batch, view.height * view.width, view.channels, GatherPixels<scalar_t>{gather});
        else
          for_each_pixel(launch, view.batch, view.height, view.width, GatherPlanes<scalar_t>{gather});
      });
}

// One thread per pixel: reads its features and label once, 4 + b C bytes, and writes one number.
template <typename scalar_t>
struct DotPixel {
  using acc = acc_t<scalar_t>;
  const acc* values;  // [B,K,C]
  ImageView<const scalar_t> features;
  const int32_t* labels;  // [B,H,W]
  acc* out;               // [B,H,W]
  int64_t num_segments;

  __device__ void operator()(int64_t b, int64_t y, int64_t x) const {
    const int64_t pixel = (b * features.height + y) * features.width + x;
    const acc* row = row_of(values, b, labels[pixel], num_segments, features.channels);
    const scalar_t* own = features.pixel(b, y, x);
    acc sum = 0;
    if (row)
      for (int64_t c = 0; c < features.channels; ++c)
        sum += row[c] * static_cast<acc>(own[c * features.channel_stride]);
    out[pixel] = sum;
  }
};

Tensor segment_dot(const Tensor& values, const Tensor& features, const Tensor& labels) {
  const Launcher launch(features);
  return segment_dot_checked(
      values, features, labels,
      [&](auto tag, const Tensor& values, const Tensor& features, const Tensor& labels, const Tensor& out) {
        using scalar_t = typename decltype(tag)::type;
        using acc = acc_t<scalar_t>;
        const auto view = image_view<scalar_t>(features);
        for_each_pixel(
            launch, view.batch, view.height, view.width,
            DotPixel<scalar_t>{data<acc>(values), view, data<int32_t>(labels), mutable_data<acc>(out), values.size(1)});
      });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) {
  m.impl("segment_gather", TORCH_BOX(&dhvt::segment_gather));
  m.impl("segment_dot", TORCH_BOX(&dhvt::segment_dot));
}
