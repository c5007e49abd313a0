// Statistics of every segment in one pass over the pixels, and the derivative of mean and m2.
#include "cpu/levels/segment_moments_kernels.h"
#include "cpu/tiles.h"
#include "segment_moments_host.h"

namespace dhvt {
namespace {

// What a segment has besides its features.
struct Shape {
  int64_t sum_y = 0, sum_x = 0;
  int32_t count = 0, boundary = 0;
  int32_t box[4] = {0, 0, -1, -1};

  void join(const Tile& tile, const SegmentShape& part) {
    const int32_t origin[2] = {static_cast<int32_t>(tile.top), static_cast<int32_t>(tile.left)};
    for (int d = 0; d < 2; ++d) {
      const int32_t first = origin[d] + part.box[d];
      box[d] = count == 0 ? first : std::min(box[d], first);
      box[d + 2] = std::max(box[d + 2], origin[d] + part.box[d + 2]);
    }
    sum_y += tile.top * part.count() + part.sum_y();
    sum_x += tile.left * part.count() + part.sum_x();
    count += part.count();
    boundary += part.boundary();
  }
};

// One task per tile: sums relative to a value near the mean give mean and m2 of every segment in it. The tiles are then
// joined in order by the pairwise formula, one task per range of segments. Reads 4 + C s bytes per pixel, and the
// labels of the rows above and below from the cache.
template <typename scalar_t>
void reduce(const Tensor& features, const Tensor& labels, int64_t num_segments, const Tensor& count, const Tensor& mean,
            const Tensor& m2, const Tensor& centroid, const Tensor& box, const Tensor& boundary) {
  using acc = acc_t<scalar_t>;
  const auto view = image_view<scalar_t>(features);
  const int64_t channels = view.channels;
  const int32_t* label = data<int32_t>(labels);
  const TilePlan plan = plan_tiles(view.batch, view.height, view.width);
  const auto shapes_of_tile = DHVT_AT_LEVEL(find_shapes);
  const auto of_tile = DHVT_AT_LEVEL(moments_of_tile<scalar_t>);
  std::vector<TileResult<acc>> moments(plan.count());                 // [tiles][slots][2][C]
  std::vector<std::unique_ptr<SegmentShape[]>> shapes(plan.count());  // [tiles][slots]
  torch::stable::parallel_for(0, plan.count(), 1, [&](int64_t first, int64_t last) {
    RunScratch scratch(plan, num_segments);
    const auto found_shapes = uninitialized<SegmentShape>(plan.most_pixels());
    std::vector<int32_t> counts;
    AlignedScratch sums;
    for (int64_t i = first; i < last; ++i) {
      const Tile tile = plan.tile(i);
      TileRuns found = scratch.next_tile();
      shapes_of_tile(label_map(plan, label, tile.image, num_segments), tile, found, found_shapes.get());
      const int64_t slots = found.num_slots;
      shapes[i] = uninitialized<SegmentShape>(slots);
      std::copy(found_shapes.get(), found_shapes.get() + slots, shapes[i].get());
      counts.resize(slots);
      for (int64_t s = 0; s < slots; ++s) counts[s] = shapes[i][s].count();
      moments[i].reset(found, 2 * channels);
      of_tile(view, tile, found, counts.data(), sums.get(slots * ((channels + 3) / 4) * kMomentsScratch),
              moments[i].values.get());
    }
  });

  acc* out_mean = mutable_data<acc>(mean);                  // [B,K,C], zero
  acc* out_m2 = mutable_data<acc>(m2);                      // [B,K,C], zero
  int32_t* out_count = mutable_data<int32_t>(count);        // [B,K]
  acc* out_centroid = mutable_data<acc>(centroid);          // [B,K,2]
  int32_t* out_box = mutable_data<int32_t>(box);            // [B,K,4]
  int32_t* out_boundary = mutable_data<int32_t>(boundary);  // [B,K]
  std::vector<Shape> total(view.batch * num_segments);
  const auto join = DHVT_AT_LEVEL(join_moments<acc>);
  combine(
      plan, moments, num_segments,
      [&](int64_t segment, int64_t tile, int64_t slot) {
        const SegmentShape& part = shapes[tile][slot];
        join(channels, static_cast<acc>(total[segment].count), static_cast<acc>(part.count()),
             moments[tile].values.get() + slot * 2 * channels, out_mean + segment * channels,
             out_m2 + segment * channels);
        total[segment].join(plan.tile(tile), part);
      },
      [&](int64_t first, int64_t last) {
        for (int64_t segment = first; segment < last; ++segment) {
          const Shape& shape = total[segment];
          const double n = std::max(shape.count, 1);
          out_count[segment] = shape.count;
          out_centroid[2 * segment] = static_cast<acc>(static_cast<double>(shape.sum_y) / n);
          out_centroid[2 * segment + 1] = static_cast<acc>(static_cast<double>(shape.sum_x) / n);
          for (int d = 0; d < 4; ++d) out_box[4 * segment + d] = shape.box[d];
          out_boundary[segment] = shape.boundary;
        }
      });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> segment_moments(const Tensor& features, const Tensor& labels,
                                                                           int64_t num_segments) {
  return segment_moments_checked(
      features, labels, num_segments,
      [&](auto tag, const Tensor& features, const Tensor& labels, const Tensor& count, Tensor mean, Tensor m2,
          const Tensor& centroid, const Tensor& box, const Tensor& boundary) {
        using scalar_t = typename decltype(tag)::type;
        torch::stable::zero_(mean);
        torch::stable::zero_(m2);
        reduce<scalar_t>(features, labels, num_segments, count, mean, m2, centroid, box, boundary);
      });
}

// One task per tile. Reads the features once, writes their gradient once: 4 + 2 C s bytes per pixel.
template <typename scalar_t>
void differentiate(const Tensor& grad_mean, const Tensor& grad_m2, const Tensor& features, const Tensor& labels,
                   const Tensor& count, const Tensor& mean, const Tensor& grad_features) {
  using acc = acc_t<scalar_t>;
  const auto view = image_view<scalar_t>(features);
  const auto out = mutable_image_view<scalar_t>(grad_features);
  const int64_t num_segments = count.size(1), table = num_segments * view.channels;
  const int32_t* label = data<int32_t>(labels);  // [B,H,W]
  const int32_t* n = data<int32_t>(count);       // [B,K]
  const acc* of_mean = data<acc>(grad_mean);     // [B,K,C]
  const acc* of_m2 = data<acc>(grad_m2);         // [B,K,C]
  const acc* segment_mean = data<acc>(mean);     // [B,K,C]
  const TilePlan plan = plan_tiles(view.batch, view.height, view.width);
  const auto of_tile = DHVT_AT_LEVEL(moments_backward_of_tile<scalar_t>);
  torch::stable::parallel_for(0, plan.count(), 1, [&](int64_t first, int64_t last) {
    std::vector<acc> scratch(view.channels);
    for (int64_t i = first; i < last; ++i) {
      const Tile tile = plan.tile(i);
      const int64_t b = tile.image;
      of_tile(view, label_map(plan, label, b, num_segments), tile, of_mean + b * table, of_m2 + b * table,
              n + b * num_segments, segment_mean + b * table, scratch.data(), out);
    }
  });
}

Tensor segment_moments_backward(const Tensor& grad_mean, const Tensor& grad_m2, const Tensor& features,
                                const Tensor& labels, const Tensor& count, const Tensor& mean) {
  return segment_moments_backward_checked(
      grad_mean, grad_m2, features, labels, count, mean,
      [](auto tag, const Tensor& grad_mean, const Tensor& grad_m2, const Tensor& features, const Tensor& labels,
         const Tensor& count, const Tensor& mean, const Tensor& out) {
        using scalar_t = typename decltype(tag)::type;
        differentiate<scalar_t>(grad_mean, grad_m2, features, labels, count, mean, out);
      });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("segment_moments", TORCH_BOX(&dhvt::segment_moments));
  m.impl("segment_moments_backward", TORCH_BOX(&dhvt::segment_moments_backward));
}
