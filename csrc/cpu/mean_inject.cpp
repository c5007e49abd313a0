// The image with the mean of each segment replaced by its token: one pass for the means, one to write.
#include "segment_sum.h"

namespace dhvt {
namespace {

// One task per strip: out = image + shift of the pixel's segment, in the layout of the output (a copy where a pixel has
// no segment). Reads and writes b C bytes per pixel. shift [B,K,C], label [B,H,W].
template <typename scalar_t>
void add_shift(const ImageView<const scalar_t>& image, const acc_t<scalar_t>* shift, const int32_t* label,
               int64_t num_segments, const ImageView<scalar_t>& out) {
  using acc = acc_t<scalar_t>;
  const int64_t channels = image.channels;
  const bool by_pixel = reads_by_pixel(out);
  const StripPlan plan = plan_strips(image.batch, image.height, image.width, channels);
  for_each_strip(plan, label, num_segments, [&](int64_t strip, const auto& runs, const auto& labels) {
    const int64_t b = plan.image(strip), begin = plan.begin(strip), length = plan.end(strip) - begin;
    const acc* table = shift + b * num_segments * channels;
    if (by_pixel) {  // the image is channels_last too: a strip is one piece of memory in both
      const scalar_t* __restrict source = image.data + (b * plan.pixels + begin) * channels;
      scalar_t* __restrict target = out.data + (b * plan.pixels + begin) * channels;
      int64_t done = 0;
      for (const Run& run : runs) {
        std::copy(source + done * channels, source + run.begin * channels, target + done * channels);
        const acc* __restrict row = table + labels[run.slot] * channels;
        done = run.begin + run.length;
        for (int64_t i = run.begin; i < done; ++i)
          for (int64_t c = 0; c < channels; ++c)
            target[i * channels + c] = scalar_t(acc(source[i * channels + c]) + row[c]);
      }
      std::copy(source + done * channels, source + length * channels, target + done * channels);
      return;
    }
    std::vector<acc> scratch(length);
    for (int64_t c = 0; c < channels; ++c) {
      const acc* __restrict source = read_plane<scalar_t>(image, b, c, begin, length, nullptr, scratch.data());
      scalar_t* __restrict target = out.data + (b * channels + c) * plan.pixels + begin;
      int64_t done = 0;
      for (const Run& run : runs) {
        for (int64_t i = done; i < run.begin; ++i) target[i] = scalar_t(source[i]);
        const acc v = table[labels[run.slot] * channels + c];
        done = run.begin + run.length;
        for (int64_t i = run.begin; i < done; ++i) target[i] = scalar_t(source[i] + v);
      }
      for (int64_t i = done; i < length; ++i) target[i] = scalar_t(source[i]);
    }
  });
}

Tensor mean_inject(const Tensor& image, const Tensor& tokens, const Tensor& labels) {
  const ScalarType type = image.scalar_type();
  check(image, "image [B,C,H,W]", type, {-1, -1, -1, -1});
  check(tokens, "tokens [B,K,C]", tokens.scalar_type(), {image.size(0), -1, image.size(1)});
  check(labels, "labels [B,H,W]", ScalarType::Int, {image.size(0), image.size(2), image.size(3)});
  const int64_t num_segments = tokens.size(1), segments = image.size(0) * num_segments, channels = image.size(1);
  Tensor out = empty_image_like(image, type);
  const Tensor dense_tokens = converted(tokens, acc_type(type)), dense_labels = dense(labels);
  dispatch_floating(type, "mean_inject", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    std::vector<acc> shift(segments * channels), mass(segments);  // shift: the sums, then token - mean
    const auto view = image_view<scalar_t>(image);
    sum_over_segments<scalar_t>(view, data<int32_t>(dense_labels), nullptr, num_segments, shift.data(), mass.data());
    const acc* token = data<acc>(dense_tokens);
    parallel(
        segments,
        [&](int64_t s) {
          if (mass[s] == 0) return;
          for (int64_t i = s * channels; i < (s + 1) * channels; ++i) shift[i] = token[i] - shift[i] / mass[s];
        },
        64);
    add_shift(view, shift.data(), data<int32_t>(dense_labels), num_segments, mutable_image_view<scalar_t>(out));
  });
  return out;
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("mean_inject", TORCH_BOX(&dhvt::mean_inject)); }
