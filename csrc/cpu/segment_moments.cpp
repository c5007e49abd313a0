// Statistics of every segment in one pass over the pixels, and the derivative of mean and m2.
#include "segment_moments.h"

#include "common.h"
#include "strips.h"

namespace dhvt {
namespace {

// What one strip knows of one segment, apart from the features.
struct Shape {
  int64_t sum_y = 0, sum_x = 0;
  int32_t count = 0, boundary = 0;
  int32_t box[4] = {0, 0, -1, -1};

  void merge(const Shape& other) {
    for (int d = 0; d < 2; ++d) {
      box[d] = count > 0 ? std::min(box[d], other.box[d]) : other.box[d];
      box[d + 2] = std::max(box[d + 2], other.box[d + 2]);
    }
    sum_y += other.sum_y;
    sum_x += other.sum_x;
    count += other.count;
    boundary += other.boundary;
  }
};

// Sums value(i), i < n, in four interleaved parts: a fixed order that still lets additions overlap.
template <typename acc, typename Value>
acc sum_of(int64_t n, const Value& value) {
  acc part[4] = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (int lane = 0; lane < 4; ++lane) part[lane] += value(i + lane);
  for (; i < n; ++i) part[0] += value(i);
  return (part[0] + part[1]) + (part[2] + part[3]);
}

// Neighbours of a run [x, x + n) of row y which have a segment, but not `own`. label [H,W]
int32_t count_boundary(const int32_t* label, int64_t height, int64_t width, int64_t num_segments, int64_t y, int64_t x,
                       int64_t n, int32_t own) {
  const auto other = [&](int32_t k) -> int32_t { return (k >= 0) & (k < num_segments) & (k != own); };
  const int32_t* run = label + y * width + x;
  int32_t found = 0;
  if (x > 0) found += other(run[-1]);
  if (x + n < width) found += other(run[n]);
  if (y > 0)
    for (int64_t i = 0; i < n; ++i) found += other(run[i - width]);
  if (y + 1 < height)
    for (int64_t i = 0; i < n; ++i) found += other(run[i + width]);
  return found;
}

Shape shape_of_run(const int32_t* label, int64_t height, int64_t width, int64_t num_segments, int64_t y, int64_t x,
                   int64_t n) {
  const int32_t row = static_cast<int32_t>(y), column = static_cast<int32_t>(x), last = static_cast<int32_t>(x + n - 1);
  const int32_t boundary = count_boundary(label, height, width, num_segments, y, x, n, label[y * width + x]);
  return {y * n, x * n + n * (n - 1) / 2, static_cast<int32_t>(n), boundary, {row, column, row, last}};
}

// One task per strip. Every run of equal labels gives its mean, then its squared deviations from it (the second read
// comes from the cache), and joins its segment's slot by the pairwise formula. The slots of the strips are then joined
// in order, one task per range of segments. 4 + C s bytes per pixel, and the labels of the rows above and below.
template <typename scalar_t>
void reduce(const Tensor& features, const Tensor& labels, int64_t num_segments, const Tensor& count, const Tensor& mean,
            const Tensor& m2, const Tensor& centroid, const Tensor& box, const Tensor& boundary) {
  using acc = acc_t<scalar_t>;
  const auto view = image_view<scalar_t>(features);
  const int64_t batch = view.batch, channels = view.channels, height = view.height, width = view.width;
  const int32_t* label = data<int32_t>(labels);
  const StripPlan plan = plan_strips(batch, height, width, channels);
  std::vector<std::vector<Shape>> shapes(plan.count());  // [strips][slots]
  std::vector<std::vector<acc>> moments(plan.count());   // [strips][slots,2,C]: mean, m2

  const StripLabels strip_labels = for_each_strip(
      plan, label, num_segments, [&](int64_t strip, const std::vector<Run>& runs, const std::vector<int32_t>& slots) {
        const int64_t b = plan.image(strip), begin = plan.begin(strip);
        std::vector<Shape>& shape = shapes[strip];
        std::vector<acc>& moment = moments[strip];
        shape.resize(slots.size());
        moment.assign(slots.size() * 2 * channels, acc(0));
        std::vector<acc> copy(std::min(width, plan.strip_pixels));
        for (const Run& run : runs) {
          const int64_t y = (begin + run.begin) / width, x = (begin + run.begin) % width, n = run.length;
          const scalar_t* pixel = view.pixel(b, y, x);
          const acc own = static_cast<acc>(n), before = static_cast<acc>(shape[run.slot].count);
          acc* slot_mean = moment.data() + run.slot * 2 * channels;
          acc* slot_m2 = slot_mean + channels;
          for (int64_t c = 0; c < channels; ++c) {
            const scalar_t* source = pixel + c * view.channel_stride;
            for (int64_t i = 0; i < n; ++i) copy[i] = static_cast<acc>(source[i * view.column_stride]);
            const acc* value = copy.data();
            const acc run_mean = sum_of<acc>(n, [&](int64_t i) { return value[i]; }) / own;
            const acc run_m2 = sum_of<acc>(n, [&](int64_t i) {
              const acc deviation = value[i] - run_mean;
              return deviation * deviation;
            });
            chan_merge(before, slot_mean[c], slot_m2[c], own, run_mean, run_m2);
          }
          shape[run.slot].merge(shape_of_run(label + b * plan.pixels, height, width, num_segments, y, x, n));
        }
      });

  std::vector<Shape> total(batch * num_segments);
  acc* out_mean = mutable_data<acc>(mean);  // [B,K,C], zero
  acc* out_m2 = mutable_data<acc>(m2);      // [B,K,C], zero
  combine(plan, strip_labels, num_segments, [&](int64_t b, int64_t k, int64_t strip, int64_t slot) {
    const int64_t segment = b * num_segments + k;
    const Shape& part = shapes[strip][slot];
    const acc before = static_cast<acc>(total[segment].count), own = static_cast<acc>(part.count);
    const acc* part_mean = moments[strip].data() + slot * 2 * channels;
    const acc* part_m2 = part_mean + channels;
    for (int64_t c = 0; c < channels; ++c)
      chan_merge(before, out_mean[segment * channels + c], out_m2[segment * channels + c], own, part_mean[c],
                 part_m2[c]);
    total[segment].merge(part);
  });

  int32_t* out_count = mutable_data<int32_t>(count);        // [B,K]
  acc* out_centroid = mutable_data<acc>(centroid);          // [B,K,2]
  int32_t* out_box = mutable_data<int32_t>(box);            // [B,K,4]
  int32_t* out_boundary = mutable_data<int32_t>(boundary);  // [B,K]
  parallel(
      batch * num_segments,
      [&](int64_t segment) {
        const Shape& shape = total[segment];
        const double n = std::max(shape.count, 1);
        out_count[segment] = shape.count;
        out_centroid[2 * segment] = static_cast<acc>(static_cast<double>(shape.sum_y) / n);
        out_centroid[2 * segment + 1] = static_cast<acc>(static_cast<double>(shape.sum_x) / n);
        for (int d = 0; d < 4; ++d) out_box[4 * segment + d] = shape.box[d];
        out_boundary[segment] = shape.boundary;
      },
      4096);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> segment_moments(const Tensor& features, const Tensor& labels,
                                                                           int64_t num_segments) {
  const ScalarType type = features.scalar_type(), acc = acc_type(type);
  check(labels, "labels [B,H,W]", ScalarType::Int, {-1, -1, -1});
  const int64_t batch = labels.size(0);
  check(features, "features [B,C,H,W]", type, {batch, -1, labels.size(1), labels.size(2)});
  STD_TORCH_CHECK(num_segments >= 0, "num_segments: expected an integer >= 0; found ", num_segments);
  const int64_t channels = features.size(1);
  Tensor count = empty({batch, num_segments}, ScalarType::Int, labels);
  Tensor mean = zeros({batch, num_segments, channels}, acc, features);
  Tensor m2 = zeros({batch, num_segments, channels}, acc, features);
  Tensor centroid = empty({batch, num_segments, 2}, acc, features);
  Tensor box = empty({batch, num_segments, 4}, ScalarType::Int, labels);
  Tensor boundary = empty({batch, num_segments}, ScalarType::Int, labels);
  dispatch_floating(type, "segment_moments", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    reduce<scalar_t>(features, dense(labels), num_segments, count, mean, m2, centroid, box, boundary);
  });
  return {count, mean, m2, centroid, box, boundary};
}

// One task per row, run by run: a run shares its segment's three numbers per channel. Reads the features once, writes
// their gradient once: 4 + 2 C s bytes per pixel.
template <typename scalar_t>
void differentiate(const Tensor& grad_mean, const Tensor& grad_m2, const Tensor& features, const Tensor& labels,
                   const Tensor& count, const Tensor& mean, const Tensor& grad_features) {
  using acc = acc_t<scalar_t>;
  const auto view = image_view<scalar_t>(features);
  const auto out = mutable_image_view<scalar_t>(grad_features);
  const int64_t num_segments = count.size(1), channels = view.channels, height = view.height, width = view.width;
  const int32_t* label = data<int32_t>(labels);  // [B,H,W]
  const int32_t* n = data<int32_t>(count);       // [B,K]
  const acc* of_mean = data<acc>(grad_mean);     // [B,K,C]
  const acc* of_m2 = data<acc>(grad_m2);         // [B,K,C]
  const acc* segment_mean = data<acc>(mean);     // [B,K,C]
  parallel(view.batch * height, [&](int64_t task) {
    const int64_t b = task / height, y = task % height;
    const int32_t* row = label + task * width;
    for (int64_t begin = 0, end = 0; begin < width; begin = end) {
      while (end < width && row[end] == row[begin]) ++end;
      const bool inside = row[begin] >= 0 && row[begin] < num_segments;
      const int64_t segment = inside ? b * num_segments + row[begin] : 0;
      for (int64_t c = 0; c < channels; ++c) {
        const scalar_t* source = view.pixel(b, y, begin) + c * view.channel_stride;
        scalar_t* target = out.pixel(b, y, begin) + c * out.channel_stride;
        if (!inside) {
          for (int64_t i = 0; i < end - begin; ++i) target[i * out.column_stride] = scalar_t(0);
          continue;
        }
        const int64_t entry = segment * channels + c;
        const acc size = static_cast<acc>(n[segment]);
        for (int64_t i = 0; i < end - begin; ++i)
          target[i * out.column_stride] =
              static_cast<scalar_t>(moments_gradient(of_mean[entry], of_m2[entry], size, segment_mean[entry],
                                                     static_cast<acc>(source[i * view.column_stride])));
      }
    }
  });
}

Tensor segment_moments_backward(const Tensor& grad_mean, const Tensor& grad_m2, const Tensor& features,
                                const Tensor& labels, const Tensor& count, const Tensor& mean) {
  const ScalarType type = features.scalar_type(), acc = acc_type(type);
  check(labels, "labels [B,H,W]", ScalarType::Int, {-1, -1, -1});
  const int64_t batch = labels.size(0);
  check(features, "features [B,C,H,W]", type, {batch, -1, labels.size(1), labels.size(2)});
  check(count, "count [B,K]", ScalarType::Int, {batch, -1});
  const int64_t num_segments = count.size(1), channels = features.size(1);
  check(mean, "mean [B,K,C]", acc, {batch, num_segments, channels});
  check(grad_mean, "grad_mean [B,K,C]", acc, {batch, num_segments, channels});
  check(grad_m2, "grad_m2 [B,K,C]", acc, {batch, num_segments, channels});
  const auto format = channels > 1 && features.stride(1) == 1 ? torch::headeronly::MemoryFormat::ChannelsLast
                                                              : torch::headeronly::MemoryFormat::Contiguous;
  const int64_t size[] = {batch, channels, features.size(2), features.size(3)};
  Tensor out = torch::stable::empty({size, 4}, type, std::nullopt, features.device(), std::nullopt, format);
  dispatch_floating(type, "segment_moments_backward", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    differentiate<scalar_t>(dense(grad_mean), dense(grad_m2), features, dense(labels), dense(count), dense(mean), out);
  });
  return out;
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("segment_moments", TORCH_BOX(&dhvt::segment_moments));
  m.impl("segment_moments_backward", TORCH_BOX(&dhvt::segment_moments_backward));
}
