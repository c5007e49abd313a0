// The image with the mean of each segment replaced by its token: one pass for the means, one to write.
#include "cpu/segment_sum.h"

namespace dhvt {
namespace {

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
    const auto target = mutable_image_view<scalar_t>(out);
    const auto of_tile = DHVT_AT_LEVEL(shift_tile<scalar_t>);
    for_each_tile(dense_labels, num_segments, [&](const Tile& tile, const LabelMap& map) {
      of_tile(view, shift.data() + tile.image * num_segments * channels, map, tile, target);
    });
  });
  return out;
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("mean_inject", TORCH_BOX(&dhvt::mean_inject)); }
