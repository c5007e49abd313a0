// Sum, gather and dot, each the derivative of the others, and the maximum. Each reads its pixels once.
#include "../segment_pool.h"

#include <limits>

#include "segment_sum.h"

namespace dhvt {
namespace {

std::tuple<Tensor, Tensor> segment_sum(const Tensor& features, const Tensor& labels,
                                       const std::optional<Tensor>& weights, int64_t num_segments) {
  const ScalarType type = features.scalar_type();
  check(features, "features [B,C,H,W]", type, {-1, -1, -1, -1});
  check(labels, "labels [B,H,W]", ScalarType::Int, {features.size(0), features.size(2), features.size(3)});
  if (weights)
    check(*weights, "weights [B,H,W]", weights->scalar_type(), {labels.size(0), labels.size(1), labels.size(2)});
  STD_TORCH_CHECK(num_segments >= 0, "num_segments: expected an integer >= 0; found ", num_segments);
  Tensor sums = zeros({features.size(0), num_segments, features.size(1)}, acc_type(type), features);
  Tensor mass = zeros({features.size(0), num_segments}, acc_type(type), features);
  const Tensor dense_labels = dense(labels);
  const std::optional<Tensor> weight = converted(weights, acc_type(type));
  dispatch_floating(type, "segment_sum", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    sum_over_segments(image_view<scalar_t>(features), data<int32_t>(dense_labels), data<acc>(weight), num_segments,
                      mutable_data<acc>(sums), mutable_data<acc>(mass));
  });
  return {sums, mass};
}

// One task per strip. A run is one value per channel: contiguous output is filled plane by plane, channels_last output
// copied row by row. Writes b C bytes per pixel. value [B,K,C], label [B,H,W], weight [B,H,W] or null, out [B,C,H,W].
template <typename scalar_t>
void gather(const scalar_t* value, const int32_t* label, const acc_t<scalar_t>* weight, int64_t num_segments,
            const ImageView<scalar_t>& out) {
  using acc = acc_t<scalar_t>;
  const int64_t channels = out.channels;
  const bool by_pixel = reads_by_pixel(out);
  const StripPlan plan = plan_strips(out.batch, out.height, out.width, channels);
  for_each_strip(plan, label, num_segments, [&](int64_t strip, const auto& runs, const auto& labels) {
    const int64_t b = plan.image(strip), begin = plan.begin(strip), length = plan.end(strip) - begin;
    const scalar_t* table = value + b * num_segments * channels;
    const acc* w = weight ? weight + b * plan.pixels + begin : nullptr;
    // Both output layouts are dense, so a strip is one piece of every plane, or one piece of memory.
    if (by_pixel) {
      scalar_t* first = out.data + (b * plan.pixels + begin) * channels;
      int64_t done = 0;
      for (const Run& run : runs) {
        std::fill(first + done * channels, first + run.begin * channels, scalar_t(0));
        const scalar_t* row = table + labels[run.slot] * channels;
        done = run.begin + run.length;
        for (int64_t i = run.begin; i < done; ++i) {
          scalar_t* __restrict pixel = first + i * channels;
          if (w)
            for (int64_t c = 0; c < channels; ++c) pixel[c] = scalar_t(w[i] * acc(row[c]));
          else
            std::copy(row, row + channels, pixel);
        }
      }
      std::fill(first + done * channels, first + length * channels, scalar_t(0));
      return;
    }
    for (int64_t c = 0; c < channels; ++c) {
      scalar_t* plane = out.data + (b * channels + c) * plan.pixels + begin;
      int64_t done = 0;
      for (const Run& run : runs) {
        std::fill(plane + done, plane + run.begin, scalar_t(0));
        const scalar_t v = table[labels[run.slot] * channels + c];
        done = run.begin + run.length;
        if (w)
          for (int64_t i = run.begin; i < done; ++i) plane[i] = scalar_t(w[i] * acc(v));
        else
          std::fill(plane + run.begin, plane + done, v);
      }
      std::fill(plane + done, plane + length, scalar_t(0));
    }
  });
}

Tensor segment_gather(const Tensor& values, const Tensor& labels, const std::optional<Tensor>& weights,
                      bool channels_last) {
  const ScalarType type = values.scalar_type();
  check(labels, "labels [B,H,W]", ScalarType::Int, {-1, -1, -1});
  check(values, "values [B,K,C]", type, {labels.size(0), -1, -1});
  if (weights)
    check(*weights, "weights [B,H,W]", weights->scalar_type(), {labels.size(0), labels.size(1), labels.size(2)});
  Tensor out =
      empty_image({labels.size(0), values.size(2), labels.size(1), labels.size(2)}, type, channels_last, values);
  const Tensor dense_values = dense(values), dense_labels = dense(labels);
  const std::optional<Tensor> weight = converted(weights, acc_type(type));
  dispatch_floating(type, "segment_gather", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    gather(data<scalar_t>(dense_values), data<int32_t>(dense_labels), data<acc_t<scalar_t>>(weight), values.size(1),
           mutable_image_view<scalar_t>(out));
  });
  return out;
}

// Eight lanes, so that the products of one pixel are not one chain of additions. value [C], pixel [C].
template <typename scalar_t>
acc_t<scalar_t> inner_product(const acc_t<scalar_t>* value, const scalar_t* pixel, int64_t channels) {
  using acc = acc_t<scalar_t>;
  acc lane[8] = {};
  int64_t c = 0;
  for (; c + 8 <= channels; c += 8)
    for (int j = 0; j < 8; ++j) lane[j] += value[c + j] * acc(pixel[c + j]);
  for (; c < channels; ++c) lane[0] += value[c] * acc(pixel[c]);
  return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

// One task per strip: channels_last takes one inner product per pixel, contiguous adds value * plane, run by run, to
// the strip's output, which stays in the cache. Reads b C bytes per pixel. value [B,K,C], label [B,H,W], out [B,H,W].
template <typename scalar_t>
void dot(const acc_t<scalar_t>* value, const ImageView<const scalar_t>& view, const int32_t* label,
         int64_t num_segments, acc_t<scalar_t>* out) {
  using acc = acc_t<scalar_t>;
  const int64_t channels = view.channels;
  const bool by_pixel = reads_by_pixel(view);
  const StripPlan plan = plan_strips(view.batch, view.height, view.width, channels);
  for_each_strip(plan, label, num_segments, [&](int64_t strip, const auto& runs, const auto& labels) {
    const int64_t b = plan.image(strip), begin = plan.begin(strip), length = plan.end(strip) - begin;
    const acc* table = value + b * num_segments * channels;
    acc* result = out + b * plan.pixels + begin;
    std::fill(result, result + length, acc(0));
    if (by_pixel) {
      for (const Run& run : runs) {
        const scalar_t* pixel = view.pixel(b, (begin + run.begin) / view.width, (begin + run.begin) % view.width);
        const acc* row = table + labels[run.slot] * channels;
        for (int64_t i = 0; i < run.length; ++i)
          result[run.begin + i] = inner_product(row, pixel + i * view.column_stride, channels);
      }
      return;
    }
    std::vector<acc> scratch(4 * length);
    int64_t c = 0;
    for (; c + 4 <= channels; c += 4) {
      const acc* plane[4];
      for (int j = 0; j < 4; ++j)
        plane[j] = read_plane<scalar_t>(view, b, c + j, begin, length, nullptr, scratch.data() + j * length);
      for (const Run& run : runs) {
        const acc* v = table + labels[run.slot] * channels + c;
        for (int64_t i = run.begin; i < run.begin + run.length; ++i)
          result[i] += (v[0] * plane[0][i] + v[1] * plane[1][i]) + (v[2] * plane[2][i] + v[3] * plane[3][i]);
      }
    }
    for (; c < channels; ++c) {
      const acc* plane = read_plane<scalar_t>(view, b, c, begin, length, nullptr, scratch.data());
      for (const Run& run : runs) {
        const acc v = table[labels[run.slot] * channels + c];
        for (int64_t i = run.begin; i < run.begin + run.length; ++i) result[i] += v * plane[i];
      }
    }
  });
}

Tensor segment_dot(const Tensor& values, const Tensor& features, const Tensor& labels) {
  const ScalarType type = features.scalar_type();
  check(features, "features [B,C,H,W]", type, {-1, -1, -1, -1});
  check(values, "values [B,K,C]", values.scalar_type(), {features.size(0), -1, features.size(1)});
  check(labels, "labels [B,H,W]", ScalarType::Int, {features.size(0), features.size(2), features.size(3)});
  Tensor out = empty({labels.size(0), labels.size(1), labels.size(2)}, acc_type(type), features);
  const Tensor dense_values = converted(values, acc_type(type)), dense_labels = dense(labels);
  dispatch_floating(type, "segment_dot", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    dot(data<acc>(dense_values), image_view<scalar_t>(features), data<int32_t>(dense_labels), values.size(1),
        mutable_data<acc>(out));
  });
  return out;
}

// Whether any of the values would replace m.
template <typename acc>
bool exceeds(const acc* value, int64_t length, acc m) {
  int32_t lane[4] = {};
  int64_t i = 0;
  for (; i + 4 <= length; i += 4)
    for (int j = 0; j < 4; ++j) lane[j] |= !(value[i + j] <= m);
  for (; i < length; ++i) lane[0] |= !(value[i] <= m);
  return m == m && (lane[0] | lane[1] | lane[2] | lane[3]);
}

// The same plan as the sum: each strip finds the maxima of its segments, the strips are compared in raster order.
// -> values [B,K,C] (0 where empty), index [B,K,C] (y * W + x; -1 where empty).
template <typename scalar_t>
void maximum(const ImageView<const scalar_t>& view, const int32_t* label, int64_t num_segments, scalar_t* values,
             int32_t* index) {
  using acc = acc_t<scalar_t>;
  const int64_t channels = view.channels;
  const bool by_pixel = reads_by_pixel(view);
  const StripPlan plan = plan_strips(view.batch, view.height, view.width, channels);
  // [strips][slots * C]; by pixel [slots][C], else [C][slots]
  std::vector<std::vector<acc>> best(plan.count());
  std::vector<std::vector<int32_t>> where(plan.count());
  const StripLabels strip_labels =
      for_each_strip(plan, label, num_segments, [&](int64_t strip, const auto& runs, const auto& labels) {
        const int64_t b = plan.image(strip), begin = plan.begin(strip), length = plan.end(strip) - begin;
        const int64_t slots = static_cast<int64_t>(labels.size());
        best[strip].assign(slots * channels, acc(0));
        where[strip].assign(slots * channels, -1);
        if (by_pixel) {
          for (const Run& run : runs) {
            acc* __restrict top = best[strip].data() + run.slot * channels;
            int32_t* __restrict at = where[strip].data() + run.slot * channels;
            const scalar_t* pixel = view.pixel(b, (begin + run.begin) / view.width, (begin + run.begin) % view.width);
            for (int64_t i = 0; i < run.length; ++i, pixel += view.column_stride) {
              const int32_t position = static_cast<int32_t>(begin + run.begin + i);
              for (int64_t c = 0; c < channels; ++c) {
                const acc v = acc(pixel[c]);
                const bool better = takes_over(v, top[c], at[c]);
                top[c] = better ? v : top[c];
                at[c] = better ? position : at[c];
              }
            }
          }
          return;
        }
        std::vector<acc> scratch(length);
        for (int64_t c = 0; c < channels; ++c) {
          const acc* plane = read_plane<scalar_t>(view, b, c, begin, length, nullptr, scratch.data());
          acc* top = best[strip].data() + c * slots;
          int32_t* at = where[strip].data() + c * slots;
          for (const Run& run : runs) {
            acc m = top[run.slot];
            int32_t position = at[run.slot];
            // Most runs hold nothing larger: four lanes at once find out, and only the others are searched.
            if (position >= 0 && !exceeds(plane + run.begin, run.length, m)) continue;
            for (int64_t i = run.begin; i < run.begin + run.length; ++i) {
              const bool better = takes_over(plane[i], m, position);
              m = better ? plane[i] : m;
              position = better ? static_cast<int32_t>(begin + i) : position;
            }
            top[run.slot] = m;
            at[run.slot] = position;
          }
        }
      });
  std::fill(values, values + view.batch * num_segments * channels, scalar_t(0));
  std::fill(index, index + view.batch * num_segments * channels, -1);
  combine(plan, strip_labels, num_segments, [&](int64_t b, int64_t k, int64_t strip, int64_t slot) {
    const int64_t slots = static_cast<int64_t>(strip_labels[strip].size());
    const int64_t first = by_pixel ? slot * channels : slot, step = by_pixel ? 1 : slots;
    scalar_t* value = values + (b * num_segments + k) * channels;
    int32_t* at = index + (b * num_segments + k) * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const acc v = best[strip][first + c * step];
      if (takes_over(v, acc(value[c]), at[c])) {
        value[c] = scalar_t(v);
        at[c] = where[strip][first + c * step];
      }
    }
  });
}

std::tuple<Tensor, Tensor> segment_max(const Tensor& features, const Tensor& labels, int64_t num_segments) {
  const ScalarType type = features.scalar_type();
  check(features, "features [B,C,H,W]", type, {-1, -1, -1, -1});
  check(labels, "labels [B,H,W]", ScalarType::Int, {features.size(0), features.size(2), features.size(3)});
  STD_TORCH_CHECK(num_segments >= 0, "num_segments: expected an integer >= 0; found ", num_segments);
  STD_TORCH_CHECK(labels.size(1) * labels.size(2) <= std::numeric_limits<int32_t>::max(),
                  "features [B,C,H,W]: the index of a pixel does not fit in int32");
  Tensor values = empty({features.size(0), num_segments, features.size(1)}, type, features);
  Tensor index = empty({features.size(0), num_segments, features.size(1)}, ScalarType::Int, features);
  const Tensor dense_labels = dense(labels);
  dispatch_floating(type, "segment_max", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    maximum(image_view<scalar_t>(features), data<int32_t>(dense_labels), num_segments, mutable_data<scalar_t>(values),
            mutable_data<int32_t>(index));
  });
  return {values, index};
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("segment_sum", TORCH_BOX(&dhvt::segment_sum));
  m.impl("segment_gather", TORCH_BOX(&dhvt::segment_gather));
  m.impl("segment_dot", TORCH_BOX(&dhvt::segment_dot));
  m.impl("segment_max", TORCH_BOX(&dhvt::segment_max));
}
