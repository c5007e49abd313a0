#include "segment_pool.h"

#include <algorithm>

#include "cpu/levels/label_runs.h"
#include "cpu/levels/lanes.h"
#include "cpu/levels/rows.h"
#include "cpu/levels/segment_pool_kernels.h"

namespace dhvt::DHVT_LEVEL {
namespace {

constexpr int64_t kGroup = 4;  // planes that are reduced together
constexpr int64_t kPadding = 16;

// Whether the channels of a pixel lie together, and its neighbours' do not.
template <typename scalar_t>
bool reads_by_pixel(const ImageView<scalar_t>& view) {
  return view.channel_stride == 1 && view.column_stride != 1 && view.channels >= 8;
}

// Channels [first, first + G) of the tile's part of row y, times weight if given.
template <int G, typename scalar_t, typename acc>
DHVT_HD void load_rows(const ImageView<const scalar_t>& view, const Tile& tile, int64_t y, int64_t first,
                       const acc* weight, acc (*rows)[kTileColumns + kPadding]) {
  const scalar_t* pixel = view.pixel(tile.image, y, tile.left) + first * view.channel_stride;
  for (int g = 0; g < G; ++g) {
    acc* row = rows[g];
    load_row(pixel + g * view.channel_stride, view.column_stride, tile.width(), row);
    if (weight)
      for (int64_t x = 0; x < tile.width(); ++x) row[x] *= weight[y * view.width + tile.left + x];
  }
}

// Calls body(slot, run, value [G], fresh) for every run of channels [first, first + G); fresh: the slot's first.
template <int G, typename scalar_t, typename acc, typename Body>
DHVT_HD void for_runs_of_planes(const ImageView<const scalar_t>& view, const Tile& tile, const TileRuns& found,
                                int64_t first, const acc* weight, const Body& body) {
  acc rows[G][kTileColumns + kPadding] = {};
  int64_t y = -1;
  int32_t known = 0;
  for (int64_t r = 0; r < found.num_runs; ++r) {
    const Run run = found.runs[r];
    if (run.y != y) load_rows<G>(view, tile, y = run.y, first, weight, rows);
    const acc* value[G];
    for (int g = 0; g < G; ++g) value[g] = rows[g] + (run.x - tile.left);
    body(run, value, run.slot == known);
    known += run.slot == known;
  }
}

// Calls body(std::integral_constant<int, G>, c) for groups of channels.
template <typename Body>
DHVT_HD void for_groups(int64_t channels, const Body& body) {
  int64_t c = 0;
  for (; c + kGroup <= channels; c += kGroup) body(std::integral_constant<int, kGroup>{}, c);
  if (channels - c == 3) body(std::integral_constant<int, 3>{}, c);
  if (channels - c == 2) body(std::integral_constant<int, 2>{}, c);
  if (channels - c == 1) body(std::integral_constant<int, 1>{}, c);
}

template <typename V, typename acc, int G>
struct Sums {
  V lanes[G];
};

// Sums of planes [first, first + G): slot by slot, lane by lane. out [slots][stride], column `first`.
template <typename V, int G, typename scalar_t, typename acc>
void sum_planes(const ImageView<const scalar_t>& view, const Tile& tile, const TileRuns& found, int64_t first,
                const acc* weight, char* scratch, int64_t stride, acc* out) {
  constexpr int lanes = sizeof(V) / sizeof(acc);
  auto* slots = reinterpret_cast<Sums<V, acc, G>*>(scratch);
  static_assert(sizeof(*slots) <= kPoolScratch);
  for_runs_of_planes<G>(view, tile, found, first, weight, [&](const Run& run, const acc* const* value, bool fresh) {
    Sums<V, acc, G>& slot = slots[run.slot];
    V sum[G];
    for (int g = 0; g < G; ++g) sum[g] = fresh ? V{} : slot.lanes[g];
    for (int64_t i = 0; i < run.length; i += lanes)
      for (int g = 0; g < G; ++g) {
        if constexpr (lanes == 1)
          sum[g] += value[g][i];
        else
          sum[g] += keep(load_lanes<V>(value[g] + i), first_lanes<acc>(run.length - i));
      }
    for (int g = 0; g < G; ++g) slot.lanes[g] = sum[g];
  });
  for (int64_t slot = 0; slot < found.num_slots; slot += lanes)
    for (int g = 0; g < G; ++g) {
      acc sum[lanes];
      const int64_t real = std::min<int64_t>(lanes, found.num_slots - slot);
      if constexpr (lanes == 1) {
        sum[0] = slots[slot].lanes[g];
      } else {
        V parts[lanes];  // those past the last slot repeat it
        for (int64_t l = 0; l < lanes; ++l) parts[l] = slots[slot + std::min(l, real - 1)].lanes[g];
        store_lanes(sum, sums_of(parts));
      }
      for (int64_t l = 0; l < real; ++l) out[(slot + l) * stride + first + g] = sum[l];
    }
}

// out [C] += the sum of n pixels of C adjacent channels, times weight [n] if given. Four pixels of few channels at a
// time: out is read and written once for all of them. Pixels of many are fetched ahead: that keeps the memory busy.
template <bool weighted, typename scalar_t, typename acc>
void add_pixels(const scalar_t* pixel, int64_t stride, int64_t n, int64_t channels, const acc* weight,
                acc* __restrict out) {
  constexpr int64_t kLine = 64 / sizeof(scalar_t);
  int64_t i = 0;
  for (; i + 4 <= n && channels < 4 * kLine; i += 4, pixel += 4 * stride) {
    const scalar_t *p0 = pixel, *p1 = pixel + stride, *p2 = pixel + 2 * stride, *p3 = pixel + 3 * stride;
    if constexpr (weighted) {
      const acc w0 = weight[i], w1 = weight[i + 1], w2 = weight[i + 2], w3 = weight[i + 3];
      for (int64_t c = 0; c < channels; ++c)
        out[c] += (w0 * acc(p0[c]) + w1 * acc(p1[c])) + (w2 * acc(p2[c]) + w3 * acc(p3[c]));
    } else {
      for (int64_t c = 0; c < channels; ++c) out[c] += (acc(p0[c]) + acc(p1[c])) + (acc(p2[c]) + acc(p3[c]));
    }
  }
  for (; i < n; ++i, pixel += stride) {
    const acc w = weighted ? weight[i] : acc(1);
    for (int64_t c = 0; c < channels; c += kLine) __builtin_prefetch(pixel + 4 * stride + c);
    for (int64_t c = 0; c < channels; ++c) out[c] += w * acc(pixel[c]);
  }
}

template <typename V, typename scalar_t, typename acc>
void sum_all_planes(const ImageView<const scalar_t>& view, const Tile& tile, const TileRuns& found, const acc* weight,
                    char* scratch, acc* out) {
  for_groups(view.channels, [&](auto group, int64_t c) {
    sum_planes<V, decltype(group)::value>(view, tile, found, c, weight, scratch, view.channels + 1, out);
  });
}

// A few pixels each: whole vectors would be reduced for nothing.
bool slots_are_small(const Tile& tile, const TileRuns& found) { return found.num_slots * 8 > tile.pixels(); }

}  // namespace

template <typename scalar_t>
void sums_of_tile(const ImageView<const scalar_t>& view, const Tile& tile, const TileRuns& found,
                  const acc_t<scalar_t>* weight, char* scratch, acc_t<scalar_t>* out) {
  using acc = acc_t<scalar_t>;
  const int64_t stride = view.channels + 1;
  for (int64_t r = 0; r < found.num_runs; ++r) {
    const Run run = found.runs[r];
    acc mass = acc(run.length);
    if (weight) {
      mass = 0;
      for (int64_t i = 0; i < run.length; ++i) mass += weight[run.y * view.width + run.x + i];
    }
    out[run.slot * stride + view.channels] += mass;
  }
  if (reads_by_pixel(view)) {
    for (int64_t r = 0; r < found.num_runs; ++r) {
      const Run run = found.runs[r];
      const scalar_t* pixel = view.pixel(tile.image, run.y, run.x);
      acc* sums = out + run.slot * stride;
      if (weight)
        add_pixels<true>(pixel, view.column_stride, run.length, view.channels, weight + run.y * view.width + run.x,
                         sums);
      else
        add_pixels<false>(pixel, view.column_stride, run.length, view.channels, weight, sums);
    }
  } else if (slots_are_small(tile, found)) {
    sum_all_planes<acc>(view, tile, found, weight, scratch, out);
  } else {
    sum_all_planes<typename Lanes<acc>::vector>(view, tile, found, weight, scratch, out);
  }
}

namespace {

template <typename V, typename M, int G>
struct Maxima {
  V top[G];
  M at[G];
};

// Maxima of planes [first, first + G). Every lane sees its pixels in raster order; the lanes are compared at the end.
template <typename V, typename M, int G, typename scalar_t, typename acc>
void maxima_of_planes(const ImageView<const scalar_t>& view, const Tile& tile, const TileRuns& found, int64_t first,
                      char* scratch, acc* best, int32_t* where) {
  constexpr int lanes = sizeof(V) / sizeof(acc);
  auto* slots = reinterpret_cast<Maxima<V, M, G>*>(scratch);
  static_assert(sizeof(*slots) <= kPoolScratch);
  M lane = {};
  if constexpr (lanes > 1)
    for (int l = 0; l < lanes; ++l) lane[l] = l;
  const acc* unweighted = nullptr;
  for_runs_of_planes<G>(view, tile, found, first, unweighted, [&](const Run& run, const acc* const* value, bool fresh) {
    Maxima<V, M, G>& slot = slots[run.slot];
    if (fresh)
      for (int g = 0; g < G; ++g) {
        slot.top[g] = V{};
        slot.at[g] = M{} - 1;
      }
    const int32_t position = static_cast<int32_t>(run.y * view.width + run.x);
    for (int64_t i = 0; i < run.length; i += lanes)
      for (int g = 0; g < G; ++g) {
        if constexpr (lanes == 1) {
          const bool better = takes_over(value[g][i], slot.top[g], static_cast<int32_t>(slot.at[g]));
          slot.top[g] = better ? value[g][i] : slot.top[g];
          slot.at[g] = better ? position + static_cast<int32_t>(i) : slot.at[g];
        } else {
          const V v = load_lanes<V>(value[g] + i), top = slot.top[g];
          const M at = slot.at[g];  // takes_over, lane by lane
          const M better = ((at < 0) | (~(v <= top) & (top == top))) & first_lanes<acc>(run.length - i);
          slot.top[g] = better ? v : top;
          slot.at[g] = better ? lane + (position + static_cast<int32_t>(i)) : at;
        }
      }
  });
  for (int64_t slot = 0; slot < found.num_slots; ++slot)
    for (int g = 0; g < G; ++g) {
      acc top[lanes];
      std::conditional_t<std::is_same_v<V, acc>, int32_t, std::conditional_t<sizeof(acc) == 8, int64_t, int32_t>>
          at[lanes];
      std::memcpy(top, &slots[slot].top[g], sizeof(V));
      std::memcpy(at, &slots[slot].at[g], sizeof(M));
      acc value = 0;
      int32_t index = -1;
      for (int l = 0; l < lanes; ++l)
        if (at[l] >= 0 && comes_before(top[l], static_cast<int32_t>(at[l]), value, index)) {
          value = top[l];
          index = static_cast<int32_t>(at[l]);
        }
      best[slot * view.channels + first + g] = value;
      where[slot * view.channels + first + g] = index;
    }
}

template <typename V, typename M, typename scalar_t, typename acc>
void maxima_of_all_planes(const ImageView<const scalar_t>& view, const Tile& tile, const TileRuns& found, char* scratch,
                          acc* best, int32_t* where) {
  for_groups(view.channels, [&](auto group, int64_t c) {
    maxima_of_planes<V, M, decltype(group)::value>(view, tile, found, c, scratch, best, where);
  });
}

// One pixel of C adjacent channels.
template <typename scalar_t, typename acc>
void take_pixel(const scalar_t* pixel, int64_t channels, int32_t position, acc* __restrict top,
                int32_t* __restrict at) {
  for (int64_t c = 0; c < channels; ++c) {
    const acc v = acc(pixel[c]);
    const bool better = takes_over(v, top[c], at[c]);
    top[c] = better ? v : top[c];
    at[c] = better ? position : at[c];
  }
}

}  // namespace

template <typename scalar_t>
void maxima_of_tile(const ImageView<const scalar_t>& view, const Tile& tile, const TileRuns& found, char* scratch,
                    acc_t<scalar_t>* best, int32_t* where) {
  using acc = acc_t<scalar_t>;
  if (reads_by_pixel(view)) {
    std::fill_n(best, found.num_slots * view.channels, acc(0));
    std::fill_n(where, found.num_slots * view.channels, -1);
    for (int64_t r = 0; r < found.num_runs; ++r) {
      const Run run = found.runs[r];
      const scalar_t* pixel = view.pixel(tile.image, run.y, run.x);
      const int32_t position = static_cast<int32_t>(run.y * view.width + run.x);
      for (int32_t i = 0; i < run.length; ++i)
        take_pixel(pixel + i * view.column_stride, view.channels, position + i, best + run.slot * view.channels,
                   where + run.slot * view.channels);
    }
  } else if (slots_are_small(tile, found)) {
    maxima_of_all_planes<acc, int32_t>(view, tile, found, scratch, best, where);
  } else {
    maxima_of_all_planes<typename Lanes<acc>::vector, typename Lanes<acc>::mask>(view, tile, found, scratch, best,
                                                                                 where);
  }
}

namespace {

// The runs of the tile's part of one row, valid or not.
struct RowRuns {
  int64_t count = 0;
  int32_t starts[kTileColumns + 1];  // from the left of the tile
  const int32_t* labels;             // of the tile's part of the row
  uint32_t limit;

  RowRuns(const LabelMap& map, const Tile& tile, int64_t y) : labels(map.row(y) + tile.left), limit(map.limit) {
    for_each_run(labels, 0, tile.width(), [&](int64_t x, int64_t) { starts[count++] = static_cast<int32_t>(x); });
    starts[count] = static_cast<int32_t>(tile.width());
  }

  // Calls body(begin, end, label), label -1 where there is no segment.
  template <typename Body>
  DHVT_HD void each(const Body& body) const {
    for (int64_t r = 0; r < count; ++r) {
      const int32_t label = labels[starts[r]];
      body(int64_t(starts[r]), int64_t(starts[r + 1]), static_cast<uint32_t>(label) < limit ? label : -1);
    }
  }
};

// The value of every pixel's segment, 0 where there is none. value [K,C] from a channel on. Whole vectors are written:
// what is past a run is written again by the next.
template <typename acc, typename T>
void expand_row(const RowRuns& runs, const T* value, int64_t channels, acc* out) {
  using V = typename Lanes<acc>::vector;
  runs.each([&](int64_t begin, int64_t end, int32_t label) {
    const V v = V{} + (label >= 0 ? static_cast<acc>(value[label * channels]) : acc(0));
    for (int64_t i = begin; i < end; i += Lanes<acc>::count) store_lanes(out + i, v);
  });
}

// Eight lanes, so that the products of one pixel are not one chain of additions. value [C], pixel [C].
template <typename scalar_t, typename acc>
acc inner_product(const acc* value, const scalar_t* pixel, int64_t channels) {
  acc lane[8] = {};
  int64_t c = 0;
  for (; c + 8 <= channels; c += 8)
    for (int j = 0; j < 8; ++j) lane[j] += value[c + j] * acc(pixel[c + j]);
  for (; c < channels; ++c) lane[0] += value[c] * acc(pixel[c]);
  return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

}  // namespace

template <typename scalar_t>
void gather_tile(const scalar_t* value, const LabelMap& labels, const Tile& tile, const acc_t<scalar_t>* weight,
                 const ImageView<scalar_t>& out) {
  using acc = acc_t<scalar_t>;
  const int64_t channels = out.channels;
  acc row[kTileColumns + kPadding];
  for (int64_t y = tile.top; y < tile.bottom; ++y) {
    const RowRuns runs(labels, tile, y);
    const acc* w = weight ? weight + y * labels.width + tile.left : nullptr;
    scalar_t* target = out.pixel(tile.image, y, tile.left);
    if (reads_by_pixel(out)) {
      runs.each([&](int64_t begin, int64_t end, int32_t label) {
        const scalar_t* own = value + label * channels;
        for (int64_t i = begin; i < end; ++i) {
          scalar_t* __restrict pixel = target + i * out.column_stride;
          if (label < 0)
            std::fill_n(pixel, channels, scalar_t(0));
          else if (w)
            for (int64_t c = 0; c < channels; ++c) pixel[c] = scalar_t(w[i] * acc(own[c]));
          else
            std::copy(own, own + channels, pixel);
        }
      });
      continue;
    }
    for (int64_t c = 0; c < channels; ++c) {
      expand_row(runs, value + c, channels, row);
      if (w) {
        for (int64_t i = 0; i < tile.width(); ++i) row[i] *= w[i];
        runs.each([&](int64_t begin, int64_t end, int32_t label) {  // 0 even where the weight is NaN
          if (label < 0) std::fill(row + begin, row + end, acc(0));
        });
      }
      store_row(row, out.column_stride, tile.width(), target + c * out.channel_stride);
    }
  }
}

template <typename scalar_t>
void dot_tile(const acc_t<scalar_t>* value, const ImageView<const scalar_t>& view, const LabelMap& labels,
              const Tile& tile, acc_t<scalar_t>* out) {
  using acc = acc_t<scalar_t>;
  const int64_t channels = view.channels, width = tile.width();
  acc feature[kTileColumns + kPadding], own[kTileColumns + kPadding];
  for (int64_t y = tile.top; y < tile.bottom; ++y) {
    const RowRuns runs(labels, tile, y);
    acc* __restrict result = out + y * labels.width + tile.left;
    const scalar_t* pixel = view.pixel(tile.image, y, tile.left);
    std::fill_n(result, width, acc(0));
    if (reads_by_pixel(view)) {
      runs.each([&](int64_t begin, int64_t end, int32_t label) {
        for (int64_t i = begin; i < end && label >= 0; ++i)
          result[i] = inner_product(value + label * channels, pixel + i * view.column_stride, channels);
      });
      continue;
    }
    for (int64_t c = 0; c < channels; ++c) {
      load_row(pixel + c * view.channel_stride, view.column_stride, width, feature);
      expand_row(runs, value + c, channels, own);
      for (int64_t i = 0; i < width; ++i) result[i] += own[i] * feature[i];
    }
    runs.each([&](int64_t begin, int64_t end, int32_t label) {  // 0 even where the features are NaN
      if (label < 0) std::fill(result + begin, result + end, acc(0));
    });
  }
}

template <typename scalar_t>
void shift_tile(const ImageView<const scalar_t>& image, const acc_t<scalar_t>* shift, const LabelMap& labels,
                const Tile& tile, const ImageView<scalar_t>& out) {
  using acc = acc_t<scalar_t>;
  using V = typename Lanes<acc>::vector;
  constexpr int64_t lanes = Lanes<acc>::count;
  const int64_t channels = image.channels;
  acc feature[kTileColumns + kPadding] = {}, row[kTileColumns + kPadding];
  for (int64_t y = tile.top; y < tile.bottom; ++y) {
    const RowRuns runs(labels, tile, y);
    const scalar_t* source = image.pixel(tile.image, y, tile.left);
    scalar_t* target = out.pixel(tile.image, y, tile.left);
    if (reads_by_pixel(image) && reads_by_pixel(out)) {
      runs.each([&](int64_t begin, int64_t end, int32_t label) {
        const acc* __restrict own = shift + label * channels;
        for (int64_t i = begin; i < end; ++i) {
          const scalar_t* from = source + i * image.column_stride;
          scalar_t* __restrict to = target + i * out.column_stride;
          if (label < 0)
            std::copy(from, from + channels, to);
          else
            for (int64_t c = 0; c < channels; ++c) to[c] = scalar_t(acc(from[c]) + own[c]);
        }
      });
      continue;
    }
    for (int64_t c = 0; c < channels; ++c) {
      load_row(source + c * image.channel_stride, image.column_stride, tile.width(), feature);
      runs.each([&](int64_t begin, int64_t end, int32_t label) {
        if (label >= 0) {
          const acc own = shift[label * channels + c];
          for (int64_t i = begin; i < end; i += lanes) store_lanes(row + i, load_lanes<V>(feature + i) + own);
        } else {
          for (int64_t i = begin; i < end; i += lanes) store_lanes(row + i, load_lanes<V>(feature + i));
        }
      });
      store_row(row, out.column_stride, tile.width(), target + c * out.channel_stride);
    }
  }
}

#define INSTANTIATE(scalar_t)                                                                                        \
  template void sums_of_tile(const ImageView<const scalar_t>&, const Tile&, const TileRuns&, const acc_t<scalar_t>*, \
                             char*, acc_t<scalar_t>*);                                                               \
  template void maxima_of_tile(const ImageView<const scalar_t>&, const Tile&, const TileRuns&, char*,                \
                               acc_t<scalar_t>*, int32_t*);                                                          \
  template void gather_tile(const scalar_t*, const LabelMap&, const Tile&, const acc_t<scalar_t>*,                   \
                            const ImageView<scalar_t>&);                                                             \
  template void dot_tile(const acc_t<scalar_t>*, const ImageView<const scalar_t>&, const LabelMap&, const Tile&,     \
                         acc_t<scalar_t>*);                                                                          \
  template void shift_tile(const ImageView<const scalar_t>&, const acc_t<scalar_t>*, const LabelMap&, const Tile&,   \
                           const ImageView<scalar_t>&);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)

}  // namespace dhvt::DHVT_LEVEL
