// Sum, gather and dot, each the derivative of the others, and the maximum. Each reads its pixels once.
#include "segment_pool.h"

#include "cpu/segment_sum.h"
#include "segment_pool_host.h"

namespace dhvt {
namespace {

std::tuple<Tensor, Tensor> segment_sum(const Tensor& features, const Tensor& labels,
                                       const std::optional<Tensor>& weights, int64_t num_segments) {
  return segment_sum_checked(features, labels, weights, num_segments,
                             [&](auto tag, const Tensor& features, const Tensor& labels,
                                 const std::optional<Tensor>& weights, Tensor sums, Tensor mass) {
                               using scalar_t = typename decltype(tag)::type;
                               using acc = acc_t<scalar_t>;
                               torch::stable::zero_(sums);
                               torch::stable::zero_(mass);
                               sum_over_segments(image_view<scalar_t>(features), data<int32_t>(labels),
                                                 data<acc>(weights), num_segments, mutable_data<acc>(sums),
                                                 mutable_data<acc>(mass));
                             });
}

Tensor segment_gather(const Tensor& values, const Tensor& labels, const std::optional<Tensor>& weights,
                      bool channels_last) {
  return segment_gather_checked(
      values, labels, weights, channels_last,
      [](auto tag, const Tensor& values, const Tensor& labels, const std::optional<Tensor>& weights,
         const Tensor& out) {
        using scalar_t = typename decltype(tag)::type;
        const int64_t pixels = labels.size(1) * labels.size(2), table = values.size(1) * values.size(2);
        const auto* value = data<scalar_t>(values);
        const auto* weight = data<acc_t<scalar_t>>(weights);
        const auto view = mutable_image_view<scalar_t>(out);
        const auto of_tile = DHVT_AT_LEVEL(gather_tile<scalar_t>);
        for_each_tile(labels, values.size(1), [&](const Tile& tile, const LabelMap& map) {
          of_tile(value + tile.image * table, map, tile, weight ? weight + tile.image * pixels : nullptr, view);
        });
      });
}

Tensor segment_dot(const Tensor& values, const Tensor& features, const Tensor& labels) {
  return segment_dot_checked(
      values, features, labels,
      [](auto tag, const Tensor& values, const Tensor& features, const Tensor& labels, const Tensor& out) {
        using scalar_t = typename decltype(tag)::type;
        using acc = acc_t<scalar_t>;
        const int64_t pixels = labels.size(1) * labels.size(2), table = values.size(1) * values.size(2);
        const auto view = image_view<scalar_t>(features);
        const acc* value = data<acc>(values);
        acc* products = mutable_data<acc>(out);
        const auto of_tile = DHVT_AT_LEVEL(dot_tile<scalar_t>);
        for_each_tile(labels, values.size(1), [&](const Tile& tile, const LabelMap& map) {
          of_tile(value + tile.image * table, view, map, tile, products + tile.image * pixels);
        });
      });
}

// The same plan as the sum: each tile finds the maxima of its segments, and the tiles are compared.
// -> values [B,K,C] (0 where empty), index [B,K,C] (y * W + x; -1 where empty).
template <typename scalar_t>
void maximum(const ImageView<const scalar_t>& view, const int32_t* label, int64_t num_segments, scalar_t* values,
             int32_t* index) {
  using acc = acc_t<scalar_t>;
  const int64_t channels = view.channels;
  const TilePlan plan = plan_tiles(view.batch, view.height, view.width);
  const auto of_tile = DHVT_AT_LEVEL(maxima_of_tile<scalar_t>);
  std::vector<std::unique_ptr<int32_t[]>> where(plan.count());  // [tiles][slots][C]
  const auto best = reduce_tiles<acc>(                          // [tiles][slots][C]
      plan, label, num_segments, channels,
      [&](int64_t i, const Tile& tile, const TileRuns& found, char* scratch, acc* maxima) {
        where[i] = uninitialized<int32_t>(found.num_slots * channels);
        of_tile(view, tile, found, scratch, maxima, where[i].get());
      });
  std::fill(values, values + view.batch * num_segments * channels, scalar_t(0));
  std::fill(index, index + view.batch * num_segments * channels, -1);
  combine(
      plan, best, num_segments,
      [&](int64_t segment, int64_t tile, int64_t slot) {
        const acc* part = best[tile].values.get() + slot * channels;
        const int32_t* place = where[tile].get() + slot * channels;
        scalar_t* value = values + segment * channels;
        int32_t* at = index + segment * channels;
        for (int64_t c = 0; c < channels; ++c)
          if (comes_before(part[c], place[c], acc(value[c]), at[c])) {
            value[c] = scalar_t(part[c]);
            at[c] = place[c];
          }
      },
      [](int64_t, int64_t) {});
}

std::tuple<Tensor, Tensor> segment_max(const Tensor& features, const Tensor& labels, int64_t num_segments) {
  return segment_max_checked(
      features, labels, num_segments,
      [&](auto tag, const Tensor& features, const Tensor& labels, const Tensor& values, const Tensor& index) {
        using scalar_t = typename decltype(tag)::type;
        maximum(image_view<scalar_t>(features), data<int32_t>(labels), num_segments, mutable_data<scalar_t>(values),
                mutable_data<int32_t>(index));
      });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("segment_sum", TORCH_BOX(&dhvt::segment_sum));
  m.impl("segment_gather", TORCH_BOX(&dhvt::segment_gather));
  m.impl("segment_dot", TORCH_BOX(&dhvt::segment_dot));
  m.impl("segment_max", TORCH_BOX(&dhvt::segment_max));
}
