// Gather and dot: the two derivatives of the segment sum. Both read each pixel once and write it once.
#include "common.h"

namespace dhvt {
namespace {

// One task per image row. values [B,K,C], labels [B,H,W], weights [B,H,W] or null, out [B,C,H,W] in either layout.
template <typename scalar_t>
void gather(const Tensor& values, const Tensor& labels, const std::optional<Tensor>& weights, const Tensor& out) {
  const auto view = mutable_image_view<scalar_t>(out);
  const int64_t num_segments = values.size(1), channels = values.size(2), height = labels.size(1), width = labels.size(2);
  const scalar_t* value = data<scalar_t>(values);
  const int32_t* label = data<int32_t>(labels);
  const scalar_t* weight = data<scalar_t>(weights);
  parallel(labels.size(0) * height, [&](int64_t task) {
    const int64_t b = task / height, y = task % height;
    const scalar_t* table = value + b * num_segments * channels;
    for (int64_t x = 0; x < width; ++x) {
      const int64_t k = label[task * width + x];
      const bool inside = k >= 0 && k < num_segments;
      const acc_t<scalar_t> w = weight ? acc_t<scalar_t>(weight[task * width + x]) : acc_t<scalar_t>(1);
      scalar_t* pixel = view.pixel(b, y, x);
      for (int64_t c = 0; c < channels; ++c)
        pixel[c * view.channel_stride] =
            inside ? scalar_t(w * acc_t<scalar_t>(table[k * channels + c])) : scalar_t(0);
    }
  });
}

Tensor segment_gather(const Tensor& values, const Tensor& labels, const std::optional<Tensor>& weights,
                      bool channels_last) {
  const ScalarType type = values.scalar_type();
  check(values, "values [B,K,C]", type, {labels.size(0), -1, -1});
  check(labels, "labels [B,H,W]", ScalarType::Int, {-1, -1, -1});
  check(weights, "weights [B,H,W]", type, {labels.size(0), labels.size(1), labels.size(2)});
  const auto format =
      channels_last ? torch::headeronly::MemoryFormat::ChannelsLast : torch::headeronly::MemoryFormat::Contiguous;
  const int64_t size[] = {labels.size(0), values.size(2), labels.size(1), labels.size(2)};
  Tensor out = torch::stable::empty({size, 4}, type, std::nullopt, values.device(), std::nullopt, format);
  dispatch_floating(type, "segment_gather", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    gather<scalar_t>(dense(values), dense(labels), dense(weights), out);
  });
  return out;
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("segment_gather", TORCH_BOX(&dhvt::segment_gather)); }
