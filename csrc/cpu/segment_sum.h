// The sum over segments, used by segment_pool and mean_inject.
#pragma once

#include "strips.h"

namespace dhvt {

// The tensor in another dtype, dense; itself when it is both already. For small tensors: tokens and weights.
inline Tensor converted(const Tensor& tensor, ScalarType type) {
  return dense(tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type));
}

inline std::optional<Tensor> converted(const std::optional<Tensor>& tensor, ScalarType type) {
  if (!tensor.has_value()) return std::nullopt;
  return converted(*tensor, type);
}

// Whether a plane is one piece of memory in raster order (contiguous), and whether a pixel's channels are
// (channels_last).
template <typename scalar_t>
bool planes_are_dense(const ImageView<scalar_t>& view) {
  return view.column_stride == 1 && (view.height == 1 || view.row_stride == view.width);
}

template <typename scalar_t>
bool reads_by_pixel(const ImageView<scalar_t>& view) {
  return view.channel_stride == 1 && !planes_are_dense(view);
}

// Pixels [begin, begin + length) of channel c of image b in raster order, times weight [length] if given: a pointer
// into the image where that is possible, else a copy in `scratch` [length].
template <typename scalar_t>
const acc_t<scalar_t>* read_plane(const ImageView<const scalar_t>& view, int64_t b, int64_t c, int64_t begin,
                                  int64_t length, const acc_t<scalar_t>* weight, acc_t<scalar_t>* scratch) {
  using acc = acc_t<scalar_t>;
  const scalar_t* plane = view.data + b * view.batch_stride + c * view.channel_stride;
  if (planes_are_dense(view)) {
    const scalar_t* pixel = plane + begin;
    if constexpr (std::is_same_v<scalar_t, acc>)
      if (!weight) return pixel;
    for (int64_t i = 0; i < length; ++i) scratch[i] = acc(pixel[i]);
  } else {
    int64_t y = begin / view.width, x = begin % view.width;
    for (int64_t i = 0; i < length; ++y, x = 0) {
      const int64_t piece = std::min(length - i, view.width - x);
      const scalar_t* row = plane + y * view.row_stride + x * view.column_stride;
      for (int64_t j = 0; j < piece; ++j) scratch[i + j] = acc(row[j * view.column_stride]);
      i += piece;
    }
  }
  if (weight)
    for (int64_t i = 0; i < length; ++i) scratch[i] *= weight[i];
  return scratch;
}

// out[c * slots + slot] += the sum of every run in N planes at once. Every slot keeps four partial sums per plane, so
// that runs add whole vectors; they are added up once, at the end. lanes: scratch [slots][N][4].
template <int N, typename acc>
void add_runs(const acc* const* plane, const std::vector<Run>& runs, int64_t slots, std::vector<acc>& lanes, acc* out) {
  lanes.assign(slots * N * 4, acc(0));
  for (const Run& run : runs) {
    acc* of_slot = lanes.data() + run.slot * N * 4;
    acc lane[N][4];
    std::copy(of_slot, of_slot + N * 4, &lane[0][0]);
    int64_t i = 0;
    for (; i + 4 <= run.length; i += 4)
      for (int c = 0; c < N; ++c)
        for (int j = 0; j < 4; ++j) lane[c][j] += plane[c][run.begin + i + j];
    for (; i < run.length; ++i)
      for (int c = 0; c < N; ++c) lane[c][0] += plane[c][run.begin + i];
    std::copy(&lane[0][0], &lane[0][0] + N * 4, of_slot);
  }
  for (int64_t slot = 0; slot < slots; ++slot)
    for (int c = 0; c < N; ++c) {
      const acc* lane = lanes.data() + (slot * N + c) * 4;
      out[c * slots + slot] += (lane[0] + lane[1]) + (lane[2] + lane[3]);
    }
}

template <typename acc>
void add_runs(int64_t planes, const acc* const* plane, const std::vector<Run>& runs, int64_t slots,
              std::vector<acc>& lanes, acc* out) {
  if (planes == 1) return add_runs<1>(plane, runs, slots, lanes, out);
  if (planes == 2) return add_runs<2>(plane, runs, slots, lanes, out);
  if (planes == 3) return add_runs<3>(plane, runs, slots, lanes, out);
  add_runs<4>(plane, runs, slots, lanes, out);
}

// out [C] += the sum of `length` pixels of C adjacent channels, times weight [length] if given. Four pixels at a time:
// out is read and written once for all of them.
template <bool weighted, typename scalar_t>
void add_pixels(const scalar_t* pixel, int64_t stride, int64_t length, int64_t channels, const acc_t<scalar_t>* weight,
                acc_t<scalar_t>* __restrict out) {
  using acc = acc_t<scalar_t>;
  int64_t i = 0;
  for (; i + 4 <= length; i += 4, pixel += 4 * stride) {
    const scalar_t *p0 = pixel, *p1 = pixel + stride, *p2 = pixel + 2 * stride, *p3 = pixel + 3 * stride;
    if constexpr (weighted) {
      const acc w0 = weight[i], w1 = weight[i + 1], w2 = weight[i + 2], w3 = weight[i + 3];
      for (int64_t c = 0; c < channels; ++c)
        out[c] += (w0 * acc(p0[c]) + w1 * acc(p1[c])) + (w2 * acc(p2[c]) + w3 * acc(p3[c]));
    } else {
      for (int64_t c = 0; c < channels; ++c) out[c] += (acc(p0[c]) + acc(p1[c])) + (acc(p2[c]) + acc(p3[c]));
    }
  }
  for (; i < length; ++i, pixel += stride) {
    const acc w = weighted ? weight[i] : acc(1);
    for (int64_t c = 0; c < channels; ++c) out[c] += w * acc(pixel[c]);
  }
}

// One task per strip sums its runs into a table of its own; a second pass adds the tables in the order of the strips.
// Reads b C + 4 bytes per pixel once, in whichever layout they lie. features [B,C,H,W], label [B,H,W],
// weight [B,H,W] or null -> sums [B,K,C], mass [B,K], both zero on entry.
template <typename scalar_t>
void sum_over_segments(const ImageView<const scalar_t>& view, const int32_t* label, const acc_t<scalar_t>* weight,
                       int64_t num_segments, acc_t<scalar_t>* sums, acc_t<scalar_t>* mass) {
  using acc = acc_t<scalar_t>;
  const int64_t channels = view.channels;
  const bool by_pixel = reads_by_pixel(view);
  const StripPlan plan = plan_strips(view.batch, view.height, view.width, channels);
  std::vector<std::vector<acc>> partial(plan.count());  // [strips][slots * (C + 1)]: sums, then mass

  const auto accumulate = [&](int64_t strip, const std::vector<Run>& runs, const std::vector<int32_t>& labels) {
    const int64_t b = plan.image(strip), begin = plan.begin(strip), length = plan.end(strip) - begin;
    const int64_t slots = static_cast<int64_t>(labels.size());
    partial[strip].assign(slots * (channels + 1), acc(0));
    acc* table = partial[strip].data();
    acc* strip_mass = table + slots * channels;
    const acc* w = weight ? weight + b * plan.pixels + begin : nullptr;
    std::vector<acc> lanes;
    if (w) {
      add_runs<1>(&w, runs, slots, lanes, strip_mass);
    } else {
      for (const Run& run : runs) strip_mass[run.slot] += acc(run.length);
    }
    if (by_pixel) {  // table [slots][C]
      for (const Run& run : runs) {
        const int64_t i = begin + run.begin;
        const scalar_t* pixel = view.pixel(b, i / view.width, i % view.width);
        acc* out = table + run.slot * channels;
        if (w)
          add_pixels<true>(pixel, view.column_stride, run.length, channels, w + run.begin, out);
        else
          add_pixels<false>(pixel, view.column_stride, run.length, channels, w, out);
      }
    } else {  // table [C][slots]
      std::vector<acc> scratch(4 * length);
      for (int64_t c = 0; c < channels; c += 4) {
        const int64_t planes = std::min<int64_t>(4, channels - c);
        const acc* plane[4];
        for (int64_t j = 0; j < planes; ++j)
          plane[j] = read_plane(view, b, c + j, begin, length, w, scratch.data() + j * length);
        add_runs(planes, plane, runs, slots, lanes, table + c * slots);
      }
    }
  };
  const StripLabels labels = for_each_strip(plan, label, num_segments, accumulate);

  combine(plan, labels, num_segments, [&](int64_t b, int64_t k, int64_t strip, int64_t slot) {
    const int64_t slots = static_cast<int64_t>(labels[strip].size());
    const acc* table = partial[strip].data();
    acc* out = sums + (b * num_segments + k) * channels;
    if (by_pixel)
      for (int64_t c = 0; c < channels; ++c) out[c] += table[slot * channels + c];
    else
      for (int64_t c = 0; c < channels; ++c) out[c] += table[c * slots + slot];
    mass[b * num_segments + k] += table[slots * channels + slot];
  });
}

}  // namespace dhvt
