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

// One strip of an image.
struct Span {
  int64_t image, begin, length, width;
};

// Channels are handled in groups of this size, so that a run is summed in registers, all channels of a group at a time.
constexpr int64_t kGroup = 4;

int64_t num_groups(int64_t channels) { return (channels + kGroup - 1) / kGroup; }

// n pixels of a group of channels, interleaved.
template <typename scalar_t, typename acc>
void interleave(const scalar_t* const* source, int64_t stride, int64_t n, acc* target) {
  const scalar_t *a = source[0], *b = source[1], *c = source[2], *d = source[3];
  for (int64_t i = 0; i < n; ++i) {
    target[i * kGroup] = static_cast<acc>(a[i * stride]);
    target[i * kGroup + 1] = static_cast<acc>(b[i * stride]);
    target[i * kGroup + 2] = static_cast<acc>(c[i * stride]);
    target[i * kGroup + 3] = static_cast<acc>(d[i * stride]);
  }
}

// Copies the strip's features to tile [groups,pixels,kGroup]: every layout and dtype meets the same loop. In blocks, so
// that what one channel leaves in the cache serves the next. The last group is filled up with a channel nobody reads.
template <typename scalar_t, typename acc>
void load_tile(const ImageView<const scalar_t>& view, const Span& span, acc* tile) {
  constexpr int64_t kBlock = 64;
  for (int64_t i = 0; i < span.length;) {
    const int64_t y = (span.begin + i) / span.width, x = (span.begin + i) % span.width;
    const int64_t n = std::min({kBlock, span.width - x, span.length - i});
    const scalar_t* pixel = view.pixel(span.image, y, x);
    for (int64_t g = 0; g < num_groups(view.channels); ++g) {
      const scalar_t* source[kGroup];
      for (int64_t l = 0; l < kGroup; ++l)
        source[l] = pixel + std::min(g * kGroup + l, view.channels - 1) * view.channel_stride;
      acc* target = tile + (g * span.length + i) * kGroup;
      if (view.column_stride == 1)
        interleave(source, 1, n, target);
      else
        interleave(source, view.column_stride, n, target);
    }
    i += n;
  }
}

template <typename acc>
struct GroupMoments {
  acc mean[kGroup], m2[kGroup];
};

// One group of channels of one strip: every run gives its mean, then its squared deviations from it (this second read
// comes from the cache), and joins its slot. `before`: the pixels which the slot holds when the run joins it.
template <typename acc>
void merge_runs(const std::vector<Run>& runs, const int32_t* before, const acc* tile, GroupMoments<acc>* slots) {
  for (size_t r = 0; r < runs.size(); ++r) {
    const acc* value = tile + runs[r].begin * kGroup;  // [n,kGroup]
    const acc* end = value + runs[r].length * kGroup;
    const acc own = static_cast<acc>(runs[r].length), joined = static_cast<acc>(before[r]);
    acc mean[kGroup] = {}, m2[kGroup] = {};
    for (const acc* v = value + kGroup; v < end; v += kGroup)
      for (int64_t l = 0; l < kGroup; ++l) mean[l] += v[l] - value[l];  // a large offset rounds once, not n times
    for (int64_t l = 0; l < kGroup; ++l) mean[l] = value[l] + mean[l] / own;
    for (const acc* v = value; v < end; v += kGroup)
      for (int64_t l = 0; l < kGroup; ++l) m2[l] += (v[l] - mean[l]) * (v[l] - mean[l]);
    GroupMoments<acc>& slot = slots[runs[r].slot];
    for (int64_t l = 0; l < kGroup; ++l) chan_merge(joined, slot.mean[l], slot.m2[l], own, mean[l], m2[l]);
  }
}

// Neighbours of a run [x, x + n) of row y which have a segment, but not `own`. label [H,W]
int32_t count_boundary(const int32_t* label, int64_t height, int64_t width, int64_t num_segments, int64_t y, int64_t x,
                       int64_t n, int32_t own) {
  const int32_t last = static_cast<int32_t>(std::min<int64_t>(num_segments - 1, INT32_MAX));
  const auto other = [&](int32_t k) -> int32_t { return (k >= 0) & (k <= last) & (k != own); };
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

// One task per strip: runs of equal labels give mean and squared deviations (the second read comes from the cache), and
// join their segment's slot by the pairwise formula. The slots of the strips are then joined in order, one task per
// range of segments. Reads 4 + C s bytes per pixel, and the labels of the rows above and below from the cache.
template <typename scalar_t>
void reduce(const Tensor& features, const Tensor& labels, int64_t num_segments, const Tensor& count, const Tensor& mean,
            const Tensor& m2, const Tensor& centroid, const Tensor& box, const Tensor& boundary) {
  using acc = acc_t<scalar_t>;
  const auto view = image_view<scalar_t>(features);
  const int64_t batch = view.batch, channels = view.channels, height = view.height, width = view.width;
  const int32_t* label = data<int32_t>(labels);
  const StripPlan plan = plan_strips(batch, height, width, channels);
  const int64_t groups = num_groups(channels);
  std::vector<std::vector<Shape>> shapes(plan.count());               // [strips][slots]
  std::vector<std::vector<GroupMoments<acc>>> moments(plan.count());  // [strips][groups,slots]

  const StripLabels strip_labels = for_each_strip(
      plan, label, num_segments,
      [&](int64_t strip, const std::vector<Run>& runs, const std::vector<int32_t>& labels_of_slots) {
        const Span span{plan.image(strip), plan.begin(strip), plan.end(strip) - plan.begin(strip), width};
        const int64_t slots = static_cast<int64_t>(labels_of_slots.size());
        shapes[strip].resize(slots);
        std::vector<int32_t> before(runs.size());
        int64_t y = span.begin / width, row = y * width - span.begin;  // where the row begins, seen from the strip
        for (size_t r = 0; r < runs.size(); ++r) {
          while (runs[r].begin >= row + width) row += width, ++y;
          Shape& shape = shapes[strip][runs[r].slot];
          before[r] = shape.count;
          shape.merge(shape_of_run(label + span.image * plan.pixels, height, width, num_segments, y,
                                   runs[r].begin - row, runs[r].length));
        }
        moments[strip].resize(groups * slots);
        const std::unique_ptr<acc[]> tile(new acc[groups * span.length * kGroup]);
        load_tile(view, span, tile.get());
        for (int64_t g = 0; g < groups; ++g)
          merge_runs(runs, before.data(), tile.get() + g * span.length * kGroup, moments[strip].data() + g * slots);
      });

  std::vector<Shape> total(batch * num_segments);
  acc* out_mean = mutable_data<acc>(mean);  // [B,K,C], zero
  acc* out_m2 = mutable_data<acc>(m2);      // [B,K,C], zero
  combine(plan, strip_labels, num_segments, [&](int64_t b, int64_t k, int64_t strip, int64_t slot) {
    const int64_t segment = b * num_segments + k;
    const Shape& part = shapes[strip][slot];
    const acc before = static_cast<acc>(total[segment].count), own = static_cast<acc>(part.count);
    const int64_t slots = static_cast<int64_t>(shapes[strip].size());
    for (int64_t c = 0; c < channels; ++c) {
      const GroupMoments<acc>& group = moments[strip][c / kGroup * slots + slot];
      chan_merge(before, out_mean[segment * channels + c], out_m2[segment * channels + c], own, group.mean[c % kGroup],
                 group.m2[c % kGroup]);
    }
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

// One channel of one run: its pixels share their segment's three numbers.
template <typename scalar_t, typename acc>
void differentiate_run(acc grad_mean, acc grad_m2, acc count, acc mean, const scalar_t* source, int64_t source_stride,
                       scalar_t* target, int64_t target_stride, int64_t n) {
  if (source_stride == 1 && target_stride == 1)
    for (int64_t i = 0; i < n; ++i)
      target[i] = static_cast<scalar_t>(moments_gradient(grad_mean, grad_m2, count, mean, static_cast<acc>(source[i])));
  else
    for (int64_t i = 0; i < n; ++i)
      target[i * target_stride] = static_cast<scalar_t>(
          moments_gradient(grad_mean, grad_m2, count, mean, static_cast<acc>(source[i * source_stride])));
}

// One task per row, in blocks whose channels share the cache. Reads the features once, writes their gradient once:
// 4 + 2 C s bytes per pixel.
template <typename scalar_t>
void differentiate(const Tensor& grad_mean, const Tensor& grad_m2, const Tensor& features, const Tensor& labels,
                   const Tensor& count, const Tensor& mean, const Tensor& grad_features) {
  using acc = acc_t<scalar_t>;
  constexpr int64_t kBlock = 128;
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
    for (int64_t block = 0; block < width; block += kBlock) {
      const int64_t block_end = std::min(block + kBlock, width);
      int32_t starts[kBlock + 1];
      int64_t runs = 0;
      for (int64_t x = block; x < block_end; ++x)
        if (x == block || row[x] != row[x - 1]) starts[runs++] = static_cast<int32_t>(x);
      starts[runs] = static_cast<int32_t>(block_end);
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t r = 0; r < runs; ++r) {
          const int64_t x = starts[r], length = starts[r + 1] - x;
          scalar_t* target = out.pixel(b, y, x) + c * out.channel_stride;
          if (row[x] < 0 || row[x] >= num_segments) {
            for (int64_t i = 0; i < length; ++i) target[i * out.column_stride] = scalar_t(0);
            continue;
          }
          const int64_t segment = b * num_segments + row[x], entry = segment * channels + c;
          differentiate_run(of_mean[entry], of_m2[entry], static_cast<acc>(n[segment]), segment_mean[entry],
                            view.pixel(b, y, x) + c * view.channel_stride, view.column_stride, target,
                            out.column_stride, length);
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
  Tensor out = empty_image_like(features, type);
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
