#include "cpu/levels/segment_moments_kernels.h"

#include <algorithm>

#include "cpu/levels/label_runs.h"
#include "cpu/levels/lanes.h"
#include "cpu/levels/rows.h"
#include "segment_moments.h"

namespace dhvt::DHVT_LEVEL {
namespace {

constexpr int64_t kGroup = 4;  // channels that are accumulated together
constexpr int64_t kPadding = 16;

// Sums of one slot, relative to a value near its mean: s1 = sum (v - shift), s2 = sum (v - shift)^2, lane by lane.
template <typename V, typename acc, int G>
struct Sums {
  V s1[G], s2[G];
  acc shift[G];
};

// n, shift, s1 and s2 of one segment, or of several in lanes -> mean and m2.
template <typename V>
DHVT_HD void finish(const V& n, const V& shift, const V& s1, const V& s2, V& mean, V& m2) {
  const V offset = s1 / n;
  const V rest = s2 - s1 * offset;
  mean = shift + offset;
  m2 = rest < 0 ? V{} : rest;  // NaN stays
}

// The shift is the median of three pixels of the first run: one outlier does not move it.
template <typename V, typename acc, int G>
DHVT_HD void start(const acc* const* value, int64_t n, Sums<V, acc, G>& sums) {
  for (int g = 0; g < G; ++g) {
    const acc a = value[g][0], b = value[g][n / 2], c = value[g][n - 1];
    sums.s1[g] = sums.s2[g] = V{};
    sums.shift[g] = std::max(std::min(a, b), std::min(std::max(a, b), c));
  }
}

template <typename V, typename acc, int G>
DHVT_HD void add(const acc* const* value, int64_t n, Sums<V, acc, G>& sums) {
  constexpr int64_t lanes = sizeof(V) / sizeof(acc);
  V s1[G], s2[G];
  for (int g = 0; g < G; ++g) {
    s1[g] = sums.s1[g];
    s2[g] = sums.s2[g];
  }
  int64_t i = 0;
  do {
    for (int g = 0; g < G; ++g) {
      V d;
      if constexpr (lanes == 1)
        d = value[g][i] - sums.shift[g];
      else
        d = keep(load_lanes<V>(value[g] + i) - sums.shift[g], first_lanes<acc>(n - i));
      s1[g] += d;
      s2[g] += d * d;
    }
    i += lanes;
  } while (i < n);
  for (int g = 0; g < G; ++g) {
    sums.s1[g] = s1[g];
    sums.s2[g] = s2[g];
  }
}

// Columns of row y of a tile as contiguous acc, with kPadding readable numbers after them, of any value:
// in place where the row is made of acc and another follows in memory, else in `copy`, [kTileColumns + kPadding].
template <typename scalar_t, typename acc>
DHVT_HD const acc* padded_row(const ImageView<const scalar_t>& view, const Tile& tile, int64_t y, int64_t channel,
                              acc* copy) {
  const scalar_t* pixel = view.pixel(tile.image, y, tile.left) + channel * view.channel_stride;
  if constexpr (std::is_same_v<scalar_t, acc>)
    if (view.column_stride == 1 && view.row_stride >= kPadding && y + 1 < view.height) return pixel;
  load_row(pixel, view.column_stride, tile.width(), copy);
  std::fill_n(copy + tile.width(), kPadding, acc(0));
  return copy;
}

// Channels [first, first + G).
template <typename V, int G, typename scalar_t, typename acc>
void add_planes(const ImageView<const scalar_t>& view, const Tile& tile, const TileRuns& found, int64_t first,
                const int32_t* counts, char* scratch, acc* out) {
  auto* slots = reinterpret_cast<Sums<V, acc, G>*>(scratch);
  static_assert(sizeof(*slots) <= kMomentsScratch);
  acc copies[G][kTileColumns + kPadding];
  const acc* rows[G] = {};
  int64_t y = -1;
  int32_t known = 0;
  for (int64_t r = 0; r < found.num_runs; ++r) {
    const Run run = found.runs[r];
    if (run.y != y) {
      y = run.y;
      for (int g = 0; g < G; ++g) rows[g] = padded_row(view, tile, y, first + g, copies[g]);
    }
    const acc* value[G];
    for (int g = 0; g < G; ++g) value[g] = rows[g] + (run.x - tile.left);
    if (run.slot == known) start(value, run.length, slots[known++]);
    add(value, run.length, slots[run.slot]);
  }
  constexpr int lanes = sizeof(V) / sizeof(acc);
  for (int64_t slot = 0; slot < found.num_slots; slot += lanes)
    for (int g = 0; g < G; ++g) {
      acc mean[lanes], m2[lanes];
      const int64_t real = std::min<int64_t>(lanes, found.num_slots - slot);
      if constexpr (lanes == 1) {
        const Sums<V, acc, G>& sums = slots[slot];
        finish(acc(counts[slot]), sums.shift[g], sums.s1[g], sums.s2[g], mean[0], m2[0]);
      } else {
        V s1[lanes], s2[lanes], n, shift, mean_lanes, m2_lanes;
        for (int l = 0; l < lanes; ++l) {  // lanes past the last slot repeat it
          const int64_t of = slot + std::min<int64_t>(l, real - 1);
          s1[l] = slots[of].s1[g];
          s2[l] = slots[of].s2[g];
          n[l] = static_cast<acc>(counts[of]);
          shift[l] = slots[of].shift[g];
        }
        finish(n, shift, sums_of(s1), sums_of(s2), mean_lanes, m2_lanes);
        store_lanes(mean, mean_lanes);
        store_lanes(m2, m2_lanes);
      }
      for (int64_t l = 0; l < real; ++l) {
        acc* target = out + (slot + l) * 2 * view.channels + first + g;
        target[0] = mean[l];
        target[view.channels] = m2[l];
      }
    }
}

template <typename V, typename scalar_t, typename acc>
void add_all_planes(const ImageView<const scalar_t>& view, const Tile& tile, const TileRuns& found,
                    const int32_t* counts, char* scratch, acc* out) {
  int64_t c = 0;
  for (; c + kGroup <= view.channels; c += kGroup) add_planes<V, kGroup>(view, tile, found, c, counts, scratch, out);
  if (view.channels - c == 3) add_planes<V, 3>(view, tile, found, c, counts, scratch, out);
  if (view.channels - c == 2) add_planes<V, 2>(view, tile, found, c, counts, scratch, out);
  if (view.channels - c == 1) add_planes<V, 1>(view, tile, found, c, counts, scratch, out);
}

// N vectors of adjacent channels of the n pixels of a run. slot: s1, s2 and shift, `padded` channels each.
template <int N, typename acc>
DHVT_HD void add_pixels(const acc* pixel, int64_t stride, int64_t n, bool fresh, int64_t padded, acc* slot) {
  using V = typename Lanes<acc>::vector;
  constexpr int64_t lanes = Lanes<acc>::count;
  V s1[N] = {}, s2[N] = {}, shift[N];
  if (fresh) {
    const int64_t few = std::min(n, lanes);
    for (int v = 0; v < N; ++v) {
      const V first = load_lanes<V>(pixel + v * lanes);
      V d = {};
      for (int64_t i = 1; i < few; ++i) d += load_lanes<V>(pixel + i * stride + v * lanes) - first;
      shift[v] = first + d / static_cast<acc>(few);
      store_lanes(slot + 2 * padded + v * lanes, shift[v]);
    }
  } else {
    for (int v = 0; v < N; ++v) {
      s1[v] = load_lanes<V>(slot + v * lanes);
      s2[v] = load_lanes<V>(slot + padded + v * lanes);
      shift[v] = load_lanes<V>(slot + 2 * padded + v * lanes);
    }
  }
  for (int64_t i = 0; i < n; ++i)
    for (int v = 0; v < N; ++v) {
      const V d = load_lanes<V>(pixel + i * stride + v * lanes) - shift[v];
      s1[v] += d;
      s2[v] += d * d;
    }
  for (int v = 0; v < N; ++v) {
    store_lanes(slot + v * lanes, s1[v]);
    store_lanes(slot + padded + v * lanes, s2[v]);
  }
}

// The channels of a pixel lie together: lanes are channels. Those past the last are zeros that nobody reads.
template <typename scalar_t, typename acc>
void add_all_pixels(const ImageView<const scalar_t>& view, const Tile& tile, const TileRuns& found,
                    const int32_t* counts, char* scratch, acc* out) {
  constexpr int64_t lanes = Lanes<acc>::count, kBlock = 4 * lanes, kPiece = 32;
  const int64_t channels = view.channels, padded = (channels + lanes - 1) / lanes * lanes;
  acc* slots = reinterpret_cast<acc*>(scratch);
  acc copy[kPiece * kBlock] = {};
  int32_t known = 0;
  for (int64_t r = 0; r < found.num_runs; ++r) {
    const Run run = found.runs[r];
    bool fresh = run.slot == known;
    known += fresh;
    for (int64_t x = 0; x < run.length; x += kPiece, fresh = false) {
      const int64_t n = std::min<int64_t>(kPiece, run.length - x);
      const scalar_t* pixel = view.pixel(tile.image, run.y, run.x + x);
      for (int64_t c = 0; c < padded; c += kBlock) {
        const int64_t wide = std::min(kBlock, padded - c), real = std::min(kBlock, channels - c);
        const acc* first = copy;
        int64_t stride = kBlock;
        const bool in_place = std::is_same_v<scalar_t, acc> && wide == real;
        if (in_place) {
          first = reinterpret_cast<const acc*>(pixel + c);
          stride = view.column_stride;
        } else {
          for (int64_t i = 0; i < n; ++i) load_row(pixel + i * view.column_stride + c, 1, real, copy + i * kBlock);
        }
        acc* slot = slots + run.slot * 3 * padded + c;
        if (wide == kBlock)
          add_pixels<4>(first, stride, n, fresh, padded, slot);
        else if (wide == 3 * lanes)
          add_pixels<3>(first, stride, n, fresh, padded, slot);
        else if (wide == 2 * lanes)
          add_pixels<2>(first, stride, n, fresh, padded, slot);
        else
          add_pixels<1>(first, stride, n, fresh, padded, slot);
      }
    }
  }
  for (int64_t s = 0; s < found.num_slots; ++s) {
    const acc* slot = slots + s * 3 * padded;
    acc* mean = out + s * 2 * channels;
    for (int64_t c = 0; c < channels; ++c)
      finish(acc(counts[s]), slot[2 * padded + c], slot[c], slot[padded + c], mean[c], mean[channels + c]);
  }
}

}  // namespace

template <typename scalar_t>
void moments_of_tile(const ImageView<const scalar_t>& view, const Tile& tile, const TileRuns& found,
                     const int32_t* counts, char* scratch, acc_t<scalar_t>* out) {
  using acc = acc_t<scalar_t>;
  if (view.channel_stride == 1 && view.column_stride != 1 && view.channels >= 8)
    add_all_pixels(view, tile, found, counts, scratch, out);
  else if (found.num_slots * 8 > tile.pixels())  // a few pixels each: whole vectors would be reduced for nothing
    add_all_planes<acc>(view, tile, found, counts, scratch, out);
  else
    add_all_planes<typename Lanes<acc>::vector>(view, tile, found, counts, scratch, out);
}

template <typename acc>
void join_moments(int64_t channels, acc before, acc own, const acc* part, acc* mean, acc* m2) {
  for (int64_t c = 0; c < channels; ++c) chan_merge(before, mean[c], m2[c], own, part[c], part[channels + c]);
}

namespace {

// One row by planes. starts [runs + 1]
template <typename scalar_t, typename acc>
void differentiate_planes(const ImageView<const scalar_t>& view, const int32_t* row, uint32_t limit, const Tile& tile,
                          int64_t y, const int32_t* starts, int64_t runs, const acc* grad_mean, const acc* grad_m2,
                          const int32_t* count, const acc* mean, const ImageView<scalar_t>& out) {
  using V = typename Lanes<acc>::vector;
  constexpr int64_t lanes = Lanes<acc>::count;
  acc copy[kTileColumns + kPadding], result[kTileColumns + kPadding];
  for (int64_t c = 0; c < view.channels; ++c) {
    const acc* feature = padded_row(view, tile, y, c, copy);
    for (int64_t r = 0; r < runs; ++r) {
      // Whole vectors: what they write past the run is written again by the next.
      const int64_t begin = starts[r], end = starts[r + 1];
      const int32_t k = row[tile.left + begin];
      if (static_cast<uint32_t>(k) >= limit) {
        for (int64_t i = begin; i < end; i += lanes) store_lanes(result + i, V{});
        continue;
      }
      const int64_t entry = k * view.channels + c;
      const acc constant = grad_mean[entry] / static_cast<acc>(count[k]), slope = 2 * grad_m2[entry];
      const acc center = mean[entry];
      if (slope != 0)
        for (int64_t i = begin; i < end; i += lanes)
          store_lanes(result + i, constant + slope * (load_lanes<V>(feature + i) - center));
      else  // none to NaN either
        for (int64_t i = begin; i < end; i += lanes) store_lanes(result + i, V{} + constant);
    }
    store_row(result, out.column_stride, tile.width(), out.pixel(tile.image, y, tile.left) + c * out.channel_stride);
  }
}

// One run whose pixels have adjacent channels. scratch [C]
template <typename scalar_t, typename acc>
void differentiate_pixels(const scalar_t* source, int64_t source_stride, scalar_t* target, int64_t target_stride,
                          int64_t n, int64_t channels, const acc* grad_mean, const acc* grad_m2, acc count,
                          const acc* mean, acc* __restrict constant) {
  for (int64_t c = 0; c < channels; ++c) constant[c] = grad_mean[c] / count;
  for (int64_t i = 0; i < n; ++i) {
    const scalar_t* from = source + i * source_stride;
    scalar_t* __restrict to = target + i * target_stride;
    for (int64_t c = 0; c < channels; ++c) {
      const acc part = 2 * grad_m2[c] * (static_cast<acc>(from[c]) - mean[c]);
      to[c] = static_cast<scalar_t>(constant[c] + (grad_m2[c] != 0 ? part : acc(0)));
    }
  }
}

}  // namespace

template <typename scalar_t>
void moments_backward_of_tile(const ImageView<const scalar_t>& view, const LabelMap& labels, const Tile& tile,
                              const acc_t<scalar_t>* grad_mean, const acc_t<scalar_t>* grad_m2, const int32_t* count,
                              const acc_t<scalar_t>* mean, acc_t<scalar_t>* scratch, const ImageView<scalar_t>& out) {
  using acc = acc_t<scalar_t>;
  const bool by_pixel = view.channel_stride == 1 && out.channel_stride == 1 && view.channels >= 8;
  for (int64_t y = tile.top; y < tile.bottom; ++y) {
    const int32_t* row = labels.row(y);
    int32_t starts[kTileColumns + 1];
    int64_t runs = 0;
    for_each_run(row, tile.left, tile.right,
                 [&](int64_t x, int64_t) { starts[runs++] = static_cast<int32_t>(x - tile.left); });
    starts[runs] = static_cast<int32_t>(tile.width());
    if (!by_pixel) {
      differentiate_planes(view, row, labels.limit, tile, y, starts, runs, grad_mean, grad_m2, count, mean, out);
      continue;
    }
    for (int64_t r = 0; r < runs; ++r) {
      const int64_t x = tile.left + starts[r], n = starts[r + 1] - starts[r], channels = view.channels;
      scalar_t* target = out.pixel(tile.image, y, x);
      const int32_t k = row[x];
      if (static_cast<uint32_t>(k) >= labels.limit) {
        for (int64_t i = 0; i < n; ++i) std::fill_n(target + i * out.column_stride, channels, scalar_t(0));
        continue;
      }
      differentiate_pixels(view.pixel(tile.image, y, x), view.column_stride, target, out.column_stride, n, channels,
                           grad_mean + k * channels, grad_m2 + k * channels, static_cast<acc>(count[k]),
                           mean + k * channels, scratch);
    }
  }
}

#define INSTANTIATE(scalar_t)                                                                                          \
  template void moments_of_tile(const ImageView<const scalar_t>&, const Tile&, const TileRuns&, const int32_t*, char*, \
                                acc_t<scalar_t>*);                                                                     \
  template void moments_backward_of_tile(const ImageView<const scalar_t>&, const LabelMap&, const Tile&,               \
                                         const acc_t<scalar_t>*, const acc_t<scalar_t>*, const int32_t*,               \
                                         const acc_t<scalar_t>*, acc_t<scalar_t>*, const ImageView<scalar_t>&);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)
template void join_moments(int64_t, float, float, const float*, float*, float*);
template void join_moments(int64_t, double, double, const double*, double*, double*);

}  // namespace dhvt::DHVT_LEVEL
