// The image with the mean of each segment replaced by its token: one pass for the means, one to write.
#include "cpu/segment_sum.h"
#include "mean_inject_host.h"

namespace dhvt {
namespace {

Tensor mean_inject(const Tensor& image, const Tensor& tokens, const Tensor& labels) {
  return mean_inject_checked(
      image, tokens, labels,
      [](auto tag, const Tensor& image, const Tensor& tokens, const Tensor& labels, const Tensor& out) {
        using scalar_t = typename decltype(tag)::type;
        using acc = acc_t<scalar_t>;
        const int64_t num_segments = tokens.size(1), segments = image.size(0) * num_segments, channels = image.size(1);
        std::vector<acc> shift(segments * channels), mass(segments);  // shift: the sums, then token - mean
        const auto view = image_view<scalar_t>(image);
        sum_over_segments<scalar_t>(view, data<int32_t>(labels), nullptr, num_segments, shift.data(), mass.data());
        const acc* token = data<acc>(tokens);
        parallel(
            segments,
            [&](int64_t s) {
              if (mass[s] == 0) return;
              for (int64_t i = s * channels; i < (s + 1) * channels; ++i) shift[i] = token[i] - shift[i] / mass[s];
            },
            64);
        const auto target = mutable_image_view<scalar_t>(out);
        const auto of_tile = DHVT_AT_LEVEL(shift_tile<scalar_t>);
        for_each_tile(labels, num_segments, [&](const Tile& tile, const LabelMap& map) {
          of_tile(view, shift.data() + tile.image * num_segments * channels, map, tile, target);
        });
      });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("mean_inject", TORCH_BOX(&dhvt::mean_inject)); }
