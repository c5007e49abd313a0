// The hot loops of soft assignment: at most kTile pixels of one cell, whose nine candidates are prepared.
//
// Lanes are pixels. A block is one vector of pixels: its nine scores, and then its nine shares, stay in registers, and
// what belongs to a candidate is a number that is broadcast from memory. x = (f - mu, p - s) is relative to the cell's
// own centre, so that the own candidate has score 0 and no coefficients: arrays over the others have 8 entries.
#pragma once

#include <limits>

#include "cpu/levels/soft_lanes.h"
#include "cpu/soft_scratch.h"

namespace dhvt::DHVT_LEVEL {
namespace {

constexpr int kTile = 256;           // pixels
constexpr int kStride = kTile + 16;  // of the rows of a tile: not a power of two, which would crowd the cache
constexpr int kOthers = kCandidates - 1;
constexpr int kChunk = 16;  // columns of cells that are prepared at once

// Codes of pixels.
constexpr uint8_t kOutside = 0, kNotFinite = 1, kTakesPart = 2;

constexpr int other_index(int k) { return k < kOwnCell ? k : k - 1; }

// 2^x, 0 below 2^kLeastExponent, for x <= 0.
DHVT_HD Lanes<float> share(Lanes<float> x) {
#ifdef __AVX512F__
  const __m512 p = exp2_fraction(Lanes<float>(_mm512_maskz_reduce_ps(__mmask16(-1), x, 9)));  // 9: down, no flags
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(kLeastExponent), _CMP_GE_OQ), p, x);
#else
  const float least = kLeastExponent, magic = 12582912.0f;  // 1.5 * 2^23: the low bits hold the rounded exponent
  const Lanes<float> clamped = x > least ? x : splat(least);
  const Lanes<float> shifted = (clamped - 0.5f) + magic;
  const Lanes<float> p = exp2_fraction(clamped - (shifted - magic));
  const Lanes<float> power = (Lanes<float>)((Index<float>)p + ((Index<float>)shifted << 23));
  return x >= least ? power : Lanes<float>{};
#endif
}

DHVT_HD Lanes<double> share(Lanes<double> x) {
  Lanes<double> out;
  for (int l = 0; l < kLanes<double>; ++l) out[l] = x[l] < kLeastExponent ? 0.0 : std::exp2(x[l]);
  return out;
}

// A cell and its candidates. Entry d of a candidate's numbers is x_d: features, y, x.
template <typename acc>
struct Cell {
  int64_t row, column, width, count;  // count: pixels
  const acc* features;                // cell-major planes
  int64_t plane;
  const uint8_t* codes;     // of the pixels; null if all take part
  const acc* base;          // [C+2] what x is relative to
  const acc* coefficient;   // [C+2,8,kChunk] at the cell's column
  const acc* constant;      // [8,kChunk] of the scores
  const acc* difference;    // [C+2,8,kChunk] of candidates to the own centre
  acc own_constant, scale;  // scale: what a score is still to be multiplied with
  bool plain;               // scores are scaled and there is a candidate
  uint32_t present;         // bit k: candidate k exists
};

// What is computed of a tile.
template <typename acc>
struct Tile {
  acc* x;         // [C+2,kStride]
  acc* weight;    // [9,kStride] the assignment
  acc* gradient;  // [9,kStride] its gradient, then that of the scores
  acc* position;  // [2,kStride] of the pixels, from the middle of the cell
  acc* best;      // [kStride] scores
};

template <typename acc>
DHVT_HD int padded(int count) {
  return (count + kLanes<acc> - 1) / kLanes<acc> * kLanes<acc>;
}

// The nine combined pairwise: the next block waits for less than for a chain.
template <typename V, typename Combine>
DHVT_HD V combined(const V (&v)[kCandidates], const Combine& combine) {
  return combine(
      combine(combine(combine(v[0], v[1]), combine(v[2], v[3])), combine(combine(v[5], v[6]), combine(v[7], v[8]))),
      v[4]);
}

// x and the scores of the n pixels of a block.
template <bool whole, typename acc>
DHVT_HD void score_block(const Cell<acc>& cell, int64_t channels, int64_t start, int at, int n, const Tile<acc>& tile,
                         Lanes<acc> (&score)[kCandidates]) {
  each<kCandidates>(
      DHVT_EACH(k) { score[k] = splat(k == kOwnCell ? cell.own_constant : cell.constant[other_index(k) * kChunk]); });
  const acc* coefficient = cell.coefficient;
  acc* out = tile.x + at;
  const auto add = [&](Lanes<acc> x) __attribute__((always_inline)) {
    store(out, x);
    each<kCandidates>(DHVT_EACH(k) {
      if constexpr (k != kOwnCell) score[k] += coefficient[other_index(k) * kChunk] * x;
    });
    coefficient += kOthers * kChunk;
    out += kStride;
  };
  const acc* feature = cell.features + start + at;
  for (int64_t c = 0; c < channels; ++c, feature += cell.plane)
    add((whole ? load(feature) : load_some(feature, n)) - cell.base[c]);
  add(load(tile.position + at) - cell.base[channels]);
  add(load(tile.position + kStride + at) - cell.base[channels + 1]);
}

// 1 where a pixel takes part, else 0.
template <typename acc>
DHVT_HD Lanes<acc> usable(const Cell<acc>& cell, int64_t first, int n) {
  Lanes<acc> out;
  for (int l = 0; l < kLanes<acc>; ++l)
    out[l] = acc(l < n && cell.present && (!cell.codes || cell.codes[first + l] == kTakesPart));
  return out;
}

// Scores, and the best of them in the row after the last candidate's.
template <bool plain, typename acc>
DHVT_HD void store_scores(const Cell<acc>& cell, int64_t channels, int64_t start, int at, int n,
                          const Tile<acc>& tile) {
  Lanes<acc> value[kCandidates];
  score_block<plain>(cell, channels, start, at, n, tile, value);
  each<kCandidates>(DHVT_EACH(k) { store(tile.weight + k * kStride + at, value[k]); });
  store(tile.best + at, combined(value, [](auto a, auto b) __attribute__((always_inline)) { return maximum(a, b); }));
}

template <bool plain, typename acc>
DHVT_HD void softmax_block(const Cell<acc>& cell, int64_t start, int at, int n, const Tile<acc>& tile) {
  const Lanes<acc> best = load(tile.best + at);
  Lanes<acc> value[kCandidates];
  each<kCandidates>(DHVT_EACH(k) {
    const Lanes<acc> below = load(tile.weight + k * kStride + at) - best;
    value[k] = share(plain ? below : below * cell.scale);
  });
  const Lanes<acc> sum = combined(value, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
  const Lanes<acc> inverse = (plain ? splat(acc(1)) : usable(cell, start + at, n)) / sum;
  each<kCandidates>(DHVT_EACH(k) { store(tile.weight + k * kStride + at, value[k] * inverse); });
}

// tile.x and tile.weight = the assignment of `count` pixels from the cell's pixel `start` on, 0 for the rest of a
// block. In two loops: one block alone is a long chain of dependent operations, longer than processors look ahead.
template <typename acc>
void assign_tile(const Cell<acc>& cell_, int64_t channels, int64_t start, int count, const Tile<acc>& tile_) {
  const Cell<acc> cell = cell_;  // local copies, that no store can change
  const Tile<acc> tile = tile_;
  constexpr int size = kLanes<acc>;
  const int plain = cell.plain && !cell.codes ? count / size * size : 0;
  for (int at = 0; at < plain; at += size) store_scores<true>(cell, channels, start, at, size, tile);
  for (int at = 0; at < plain; at += size) {
    // The next tile follows in memory: more channels than the hardware prefetches on its own.
    const acc* next = cell.features + start + count + at;
    for (int64_t c = 0; c < channels; ++c) __builtin_prefetch(next + c * cell.plane);
    softmax_block<true>(cell, start, at, size, tile);
  }
  for (int at = plain; at < count; at += size) {
    const int n = count - at < size ? count - at : size;
    store_scores<false>(cell, channels, start, at, n, tile);
    softmax_block<false>(cell, start, at, n, tile);
  }
}

// labels[count]: the best candidate, own cell first, then lowest index; -1 outside the mask.
template <typename acc>
void label_tile(const Cell<acc>& cell_, int64_t channels, int64_t start, int count, const Tile<acc>& tile_,
                int64_t columns, int32_t* labels) {
  const Cell<acc> cell = cell_;
  const Tile<acc> tile = tile_;
  const int32_t own = int32_t(cell.row * columns + cell.column);
  for (int at = 0; at < count; at += kLanes<acc>) {
    const int n = count - at < kLanes<acc> ? count - at : kLanes<acc>;
    Lanes<acc> score[kCandidates];
    score_block<false>(cell, channels, start, at, n, tile, score);
    Lanes<acc> best = score[kOwnCell];
    Index<acc> label = Index<acc>{} + own;
    each<kCandidates>(DHVT_EACH(k) {
      if constexpr (k != kOwnCell) {
        const Index<acc> nearer = score[k] > best;
        best = nearer ? score[k] : best;
        label = nearer ? Index<acc>{} + int32_t(own + (k / 3 - 1) * columns + k % 3 - 1) : label;
      }
    });
    for (int l = 0; l < n; ++l) labels[at + l] = int32_t(label[l]);
    if (cell.codes)
      for (int l = 0; l < n; ++l) {
        const uint8_t code = cell.codes[start + at + l];
        labels[at + l] = code == kTakesPart ? labels[at + l] : code == kNotFinite ? own : -1;
      }
  }
}

// Planes whose nine accumulators fit in the registers together.
constexpr int kPlanes = kVectorBytes == 64 ? 3 : 1;

template <int planes, bool mass, typename acc>
DHVT_HD void add_group(const acc* weight, const acc* plane, int padded, bool fresh, acc* lanes, acc* mass_lanes,
                       int64_t record) {
  Lanes<acc> sum[planes + mass][kCandidates] = {};
  if (!fresh)
    each<kCandidates>(DHVT_EACH(k) {
      each<planes>(DHVT_EACH(p) { sum[p][k] = load(lanes + (k * record + p) * kLanes<acc>); });
      if constexpr (mass) sum[planes][k] = load(mass_lanes + k * record * kLanes<acc>);
    });
  for (int n = 0; n < padded; n += kLanes<acc>) {
    Lanes<acc> value[planes + 1];
    each<planes>(DHVT_EACH(p) { value[p] = load(plane + p * kStride + n); });
    each<kCandidates>(DHVT_EACH(k) {
      const Lanes<acc> share = load(weight + k * kStride + n);
      each<planes>(DHVT_EACH(p) { sum[p][k] += share * value[p]; });
      if constexpr (mass) sum[planes][k] += share;
    });
  }
  each<kCandidates>(DHVT_EACH(k) {
    each<planes>(DHVT_EACH(p) { store(lanes + (k * record + p) * kLanes<acc>, sum[p][k]); });
    if constexpr (mass) store(mass_lanes + k * record * kLanes<acc>, sum[planes][k]);
  });
}

// lanes [9,record] of vectors, entry d of candidate k: += plane d - 1 * weight[k]; entry 0 += weight[k] if `mass`. If
// `fresh`, nothing is in the lanes yet.
template <bool mass, typename acc>
DHVT_HD void add_products(const acc* weight, const acc* planes, int64_t dims, int padded, bool fresh, acc* lanes,
                          int64_t record) {
  int64_t d = 0;
  const auto group = [&](auto size, auto with_mass) __attribute__((always_inline)) {
    add_group<size, with_mass>(weight, planes + d * kStride, padded, fresh, lanes + (d + 1) * kLanes<acc>, lanes,
                               record);
    d += size;
  };
  constexpr std::bool_constant<mass> last;
  while (d + kPlanes <= dims) group(std::integral_constant<int, kPlanes>{}, std::false_type{});
  if (kPlanes > 2 && dims - d == 2)
    group(std::integral_constant<int, 2>{}, last);
  else if (kPlanes > 1 && dims - d == 1)
    group(std::integral_constant<int, 1>{}, last);
  else if (mass)
    group(std::integral_constant<int, 0>{}, last);
}

// Numbers of the nine candidates of a cell, [dims,pitch] for each row of cells: candidate k's number d is
// row[k / 3][d * pitch + k % 3 - 1].
template <typename acc>
struct Vectors {
  const acc* row[3];
  int64_t pitch;
};

// tile.gradient = `constant`s (or += if null) of the candidates + vectors . planes.
template <typename acc>
DHVT_HD void add_linear(const acc* constant, const Vectors<acc>& vectors, const acc* planes, int64_t dims, int padded,
                        acc* out) {
  for (int n = 0; n < padded; n += kLanes<acc>) {
    Lanes<acc> sum[kCandidates];
    if (constant)
      each<kCandidates>(DHVT_EACH(k) { sum[k] = splat(constant[k * kChunk]); });
    else
      each<kCandidates>(DHVT_EACH(k) { sum[k] = load(out + k * kStride + n); });
    const acc *above = vectors.row[0], *own = vectors.row[1], *below = vectors.row[2];
    const acc* plane = planes + n;
    for (int64_t d = 0; d < dims; ++d) {
      const Lanes<acc> x = load(plane);
      each<kCandidates>(DHVT_EACH(k) { sum[k] += (k < 3 ? above : k < 6 ? own : below)[k % 3 - 1] * x; });
      above += vectors.pitch;
      own += vectors.pitch;
      below += vectors.pitch;
      plane += kStride;
    }
    each<kCandidates>(DHVT_EACH(k) { store(out + k * kStride + n, sum[k]); });
  }
}

// From the gradient of the assignment to that of the scores, but for the factor 1 / temperature.
template <typename acc>
DHVT_HD void softmax_backward(const acc* weight, acc* gradient, int padded) {
  for (int n = 0; n < padded; n += kLanes<acc>) {
    Lanes<acc> value[kCandidates];
    each<kCandidates>(DHVT_EACH(k) { value[k] = load(weight + k * kStride + n) * load(gradient + k * kStride + n); });
    const Lanes<acc> inner = combined(value, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
    each<kCandidates>(
        DHVT_EACH(k) { store(gradient + k * kStride + n, value[k] - load(weight + k * kStride + n) * inner); });
  }
}

// Adds to `channels` gradient planes what the shares give, sum_k weight[k] vectors_k, and what the scores give,
// factor * sum_k gradient[k] difference_k.
template <int channels, bool shares, bool scores, typename acc>
DHVT_HD void spread_group(const Tile<acc>& tile, const Vectors<acc>& vectors, const acc* difference, acc factor, int at,
                          Lanes<acc> (&out)[channels]) {
  Lanes<acc> from_scores[channels];
  if constexpr (scores)
    each<kCandidates>(DHVT_EACH(k) {
      if constexpr (k != kOwnCell) {
        const Lanes<acc> value = load(tile.gradient + k * kStride + at);
        each<channels>(DHVT_EACH(c) {
          const acc number = difference[(c * kOthers + other_index(k)) * kChunk];
          from_scores[c] = k == 0 ? value * number : from_scores[c] + value * number;
        });
      }
    });
  if constexpr (shares)
    each<kCandidates>(DHVT_EACH(k) {
      const Lanes<acc> value = load(tile.weight + k * kStride + at);
      each<channels>(DHVT_EACH(c) { out[c] += value * vectors.row[k / 3][c * vectors.pitch + k % 3 - 1]; });
    });
  if constexpr (scores) each<channels>(DHVT_EACH(c) { out[c] += factor * from_scores[c]; });
}

// How the gradient of a cell's pixels is kept: cell-major planes, like its features.
template <typename acc>
struct GradientPlanes {
  acc* data;  // at the tile's first pixel
  int64_t plane;
  bool fresh;  // nothing in it yet
};

template <int channels, bool shares, bool scores, typename acc>
DHVT_HD void spread_channels(const Tile<acc>& tile, const Vectors<acc>& vectors, const acc* difference, acc factor,
                             int count, const GradientPlanes<acc>& out) {
  for (int at = 0; at < count; at += kLanes<acc>) {
    const int n = count - at < kLanes<acc> ? count - at : kLanes<acc>;
    Lanes<acc> value[channels];
    each<channels>(DHVT_EACH(c) {
      const acc* from = out.data + c * out.plane + at;
      value[c] = out.fresh ? Lanes<acc>{} : n == kLanes<acc> ? load(from) : load_some(from, n);
    });
    spread_group<channels, shares, scores>(tile, vectors, difference, factor, at, value);
    each<channels>(DHVT_EACH(c) {
      acc* to = out.data + c * out.plane + at;
      n == kLanes<acc> ? store(to, value[c]) : store_some(to, value[c], n);
    });
  }
}

template <bool shares, bool scores, typename acc>
DHVT_HD void spread(const Tile<acc>& tile, Vectors<acc> vectors, const acc* difference, acc factor, int64_t channels,
                    int count, GradientPlanes<acc> out) {
  const auto group = [&](auto size) __attribute__((always_inline)) {
    spread_channels<size, shares, scores>(tile, vectors, difference, factor, count, out);
    for (auto& row : vectors.row) row += size * vectors.pitch;
    difference += size * kOthers * kChunk;
    out.data += size * out.plane;
    channels -= size;
  };
  while (channels >= 5) group(std::integral_constant<int, 5>{});
  if (channels >= 3) group(std::integral_constant<int, 3>{});
  if (channels >= 2) group(std::integral_constant<int, 2>{});
  if (channels >= 1) group(std::integral_constant<int, 1>{});
}

}  // namespace
}  // namespace dhvt::DHVT_LEVEL
