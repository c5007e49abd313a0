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

// Numbers of the pixels of a tile: number d of pixel n is data[d * pitch + n] - base[d]. There is a whole block of them
// where the tile ends within one, and they are finite.
template <typename acc>
struct Numbers {
  const acc* data;
  int64_t pitch;
  const acc* base;
};

// A cell and its candidates. Entry d of a candidate's numbers is x_d: features, y, x.
template <typename acc>
struct Cell {
  int64_t row, column, width, count;  // count: pixels
  int64_t first;                      // its first pixel in the row of cells
  const acc* features;                // [C,count]
  const uint8_t* codes;               // of the pixels; null if all take part
  const acc* base;                    // [C+2] what x is relative to
  const acc* coefficient;             // [C+2,8,kChunk] at the cell's column
  const acc* constant;                // [8,kChunk] of the scores
  const acc* difference;              // [C+2,8,kChunk] of candidates to the own centre
  acc own_constant, scale;            // scale: what a score is still to be multiplied with
  bool plain;                         // scores are scaled and there is a candidate
  uint32_t present;                   // bit k: candidate k exists
};

// What is computed of a tile.
template <typename acc>
struct Tile {
  acc* weight;    // [9,kStride] the assignment
  acc* gradient;  // [9,kStride] its gradient, then that of the scores
  acc* position;  // [2,kStride] of the pixels, from the middle of the cell
  acc* best;      // [kStride] scores
};

// The two parts of x: of the features, and of the positions.
template <typename acc>
DHVT_HD Numbers<acc> feature_part(const Cell<acc>& cell, int64_t start) {
  return {cell.features + start, cell.count, cell.base};
}
template <typename acc>
DHVT_HD Numbers<acc> position_part(const Cell<acc>& cell, int64_t channels, const Tile<acc>& tile) {
  return {tile.position, kStride, cell.base + channels};
}

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

// Blocks whose scores are computed together, so that a coefficient is loaded once for all: as many as the registers
// hold.
constexpr int kBlocks = kVectorBytes == 64 ? 2 : 1;

// body<blocks>(at) for all blocks of `count` pixels, kBlocks of them at once while there are.
template <typename acc, typename Body>
DHVT_HD void each_blocks(int count, const Body& body) {
  int at = 0;
  for (; at + kBlocks * kLanes<acc> <= count; at += kBlocks * kLanes<acc>)
    body(std::integral_constant<int, kBlocks>{}, at);
  if constexpr (kBlocks > 1)
    for (; at < count; at += kLanes<acc>) body(std::integral_constant<int, 1>{}, at);
}

// A number that is multiplied with every one of neighbouring blocks.
template <int blocks, typename acc>
DHVT_HD Lanes<acc> factor_of_blocks(acc value) {
  Lanes<acc> out = splat(value);
  if constexpr (blocks > 1) keep_in_register(out);
  return out;
}

// The scores of neighbouring blocks; the last one has n pixels.
template <bool whole, int blocks, typename acc>
DHVT_HD void score_blocks(const Cell<acc>& cell, int64_t channels, int64_t start, int at, int n, const Tile<acc>& tile,
                          Lanes<acc> (&score)[blocks][kCandidates]) {
  DHVT_EACH (k, kCandidates)
    DHVT_EACH (b, blocks)
      score[b][k] = splat(k == kOwnCell ? cell.own_constant : cell.constant[other_index(k) * kChunk]);
  const acc* coefficient = cell.coefficient;
  const auto add = [&](const acc* from, acc base, bool padded) __attribute__((always_inline)) {
    Lanes<acc> x[blocks];
    DHVT_EACH (b, blocks) {
      const acc* block = from + b * kLanes<acc>;
      x[b] = (whole || padded ? load(block) : load_some(block, n)) - base;
    }
    DHVT_EACH (k, kCandidates) {
      if (k != kOwnCell) {
        const Lanes<acc> c = factor_of_blocks<blocks>(coefficient[other_index(k) * kChunk]);
        DHVT_EACH (b, blocks) score[b][k] += c * x[b];
      }
    }
    coefficient += kOthers * kChunk;
  };
  const acc* feature = cell.features + start + at;
  for (int64_t c = 0; c < channels; ++c, feature += cell.count) add(feature, cell.base[c], false);
  add(tile.position + at, cell.base[channels], true);
  add(tile.position + kStride + at, cell.base[channels + 1], true);
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
template <bool whole, int blocks, typename acc>
DHVT_HD void store_scores(const Cell<acc>& cell, int64_t channels, int64_t start, int at, int n,
                          const Tile<acc>& tile) {
  Lanes<acc> value[blocks][kCandidates];
  score_blocks<whole>(cell, channels, start, at, n, tile, value);
  DHVT_EACH (b, blocks) {
    const int here = at + b * kLanes<acc>;
    DHVT_EACH (k, kCandidates) store(tile.weight + k * kStride + here, value[b][k]);
    store(tile.best + here,
          combined(value[b], [](auto a, auto c) __attribute__((always_inline)) { return maximum(a, c); }));
  }
}

// From scores to shares that are not divided by their sum yet: it takes the place of the best score.
template <bool plain, typename acc>
DHVT_HD void exponentiate_block(const Cell<acc>& cell, int at, const Tile<acc>& tile) {
  const Lanes<acc> best = load(tile.best + at);
  Lanes<acc> value[kCandidates];
  DHVT_EACH (k, kCandidates) {
    acc* score = tile.weight + k * kStride + at;
    const Lanes<acc> below = load(score) - best;
    value[k] = share(plain ? below : below * cell.scale);
    store(score, value[k]);
  }
  store(tile.best + at, combined(value, [](auto a, auto b) __attribute__((always_inline)) { return a + b; }));
}

template <bool plain, typename acc>
DHVT_HD void normalize_block(const Cell<acc>& cell, int64_t start, int at, int n, const Tile<acc>& tile) {
  const Lanes<acc> inverse = (plain ? splat(acc(1)) : usable(cell, start + at, n)) / load(tile.best + at);
  DHVT_EACH (k, kCandidates) {
    acc* share = tile.weight + k * kStride + at;
    store(share, load(share) * inverse);
  }
}

// tile.weight = the assignment of `count` pixels from the cell's pixel `start` on, 0 for the rest of a
// block. In several loops, and each block's division behind the next one's exponentials: one block alone is a long
// chain of dependent operations, longer than processors look ahead.
template <typename acc>
void assign_tile(const Cell<acc>& cell_, int64_t channels, int64_t start, int count, const Tile<acc>& tile_) {
  const Cell<acc> cell = cell_;  // local copies, that no store can change
  const Tile<acc> tile = tile_;
  constexpr int size = kLanes<acc>;
  const int plain = cell.plain && !cell.codes ? count / size * size : 0;
  each_blocks<acc>(plain, [&]<int blocks>(std::integral_constant<int, blocks>, int at) __attribute__((always_inline)) {
    store_scores<true, blocks>(cell, channels, start, at, size, tile);
  });
  for (int at = 0; at < plain; at += size) {
    exponentiate_block<true>(cell, at, tile);
    if (at > 0) normalize_block<true>(cell, start, at - size, size, tile);
  }
  if (plain > 0) normalize_block<true>(cell, start, plain - size, size, tile);
  for (int at = plain; at < count; at += size) {
    const int n = count - at < size ? count - at : size;
    store_scores<false, 1>(cell, channels, start, at, n, tile);
    exponentiate_block<false>(cell, at, tile);
    normalize_block<false>(cell, start, at, n, tile);
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
    Lanes<acc> scores[1][kCandidates];
    score_blocks<false>(cell, channels, start, at, n, tile, scores);
    const auto& score = scores[0];
    Lanes<acc> best = score[kOwnCell];
    Index<acc> label = Index<acc>{} + own;
    DHVT_EACH (k, kCandidates) {
      if (k != kOwnCell) {
        const Index<acc> nearer = score[k] > best;
        best = nearer ? score[k] : best;
        label = nearer ? Index<acc>{} + int32_t(own + (k / 3 - 1) * columns + k % 3 - 1) : label;
      }
    }
    for (int l = 0; l < n; ++l) labels[at + l] = int32_t(label[l]);
    if (cell.codes)
      for (int l = 0; l < n; ++l) {
        const uint8_t code = cell.codes[start + at + l];
        labels[at + l] = code == kTakesPart ? labels[at + l] : code == kNotFinite ? own : -1;
      }
  }
}

// Numbers whose nine accumulators fit in the registers together.
constexpr int kTogether = kVectorBytes == 64 ? 3 : 1;

template <int size, bool mass, typename acc>
DHVT_HD void add_group(const acc* weight, const Numbers<acc>& numbers, int padded, bool fresh, acc* lanes,
                       acc* mass_lanes, int64_t record) {
  Lanes<acc> sum[size + mass][kCandidates] = {};
  if (!fresh)
    DHVT_EACH (k, kCandidates) {
      DHVT_EACH (d, size) sum[d][k] = load(lanes + (k * record + d) * kLanes<acc>);
      if constexpr (mass) sum[size][k] = load(mass_lanes + k * record * kLanes<acc>);
    }
  for (int n = 0; n < padded; n += kLanes<acc>) {
    Lanes<acc> value[size + 1];
    DHVT_EACH (d, size) value[d] = load(numbers.data + d * numbers.pitch + n) - numbers.base[d];
    DHVT_EACH (k, kCandidates) {
      Lanes<acc> share = load(weight + k * kStride + n);
      if constexpr (kTogether > 1) keep_in_register(share);
      DHVT_EACH (d, size) sum[d][k] += share * value[d];
      if constexpr (mass) sum[size][k] += share;
    }
  }
  DHVT_EACH (k, kCandidates) {
    DHVT_EACH (d, size) store(lanes + (k * record + d) * kLanes<acc>, sum[d][k]);
    if constexpr (mass) store(mass_lanes + k * record * kLanes<acc>, sum[size][k]);
  }
}

// lanes [9,record] of vectors, entry `first` + 1 + d of candidate k: += number d * weight[k]; entry 0 += weight[k] if
// `mass`. If `fresh`, nothing is in the lanes yet.
template <bool mass, typename acc>
DHVT_HD void add_products(const acc* weight, Numbers<acc> numbers, int64_t dims, int padded, bool fresh, int64_t first,
                          acc* lanes, int64_t record) {
  acc* entry = lanes + (first + 1) * kLanes<acc>;
  const auto group = [&](auto size, auto with_mass) __attribute__((always_inline)) {
    add_group<size, with_mass>(weight, numbers, padded, fresh, entry, lanes, record);
    numbers.data += size * numbers.pitch;
    numbers.base += size;
    entry += size * kLanes<acc>;
    dims -= size;
  };
  constexpr std::bool_constant<mass> last;
  while (dims >= kTogether) group(std::integral_constant<int, kTogether>{}, std::false_type{});
  if (kTogether > 2 && dims == 2)
    group(std::integral_constant<int, 2>{}, last);
  else if (kTogether > 1 && dims == 1)
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

  // Without the first numbers.
  DHVT_HD Vectors from(int64_t first) const {
    const int64_t at = first * pitch;
    return {{row[0] + at, row[1] + at, row[2] + at}, pitch};
  }
};

// sum[k] of neighbouring blocks += vectors_k . numbers.
template <int blocks, typename acc>
DHVT_HD void add_inner_products(const Vectors<acc>& vectors, const Numbers<acc>& numbers, int64_t dims, int at,
                                Lanes<acc> (&sum)[blocks][kCandidates]) {
  const acc *above = vectors.row[0], *own = vectors.row[1], *below = vectors.row[2];
  const acc* from = numbers.data + at;
  for (int64_t d = 0; d < dims; ++d, from += numbers.pitch) {
    Lanes<acc> x[blocks];
    DHVT_EACH (b, blocks) x[b] = load(from + b * kLanes<acc>) - numbers.base[d];
    DHVT_EACH (k, kCandidates) {
      const Lanes<acc> v = factor_of_blocks<blocks>((k < 3 ? above : k < 6 ? own : below)[k % 3 - 1]);
      DHVT_EACH (b, blocks) sum[b][k] += v * x[b];
    }
    above += vectors.pitch;
    own += vectors.pitch;
    below += vectors.pitch;
  }
}

// tile.gradient += vectors . numbers.
template <typename acc>
DHVT_HD void add_linear(const Vectors<acc>& vectors, const Numbers<acc>& numbers, int64_t dims, int padded, acc* out) {
  each_blocks<acc>(padded, [&]<int blocks>(std::integral_constant<int, blocks>, int at) __attribute__((always_inline)) {
    Lanes<acc> sum[blocks][kCandidates];
    DHVT_EACH (b, blocks)
      DHVT_EACH (k, kCandidates) sum[b][k] = load(out + k * kStride + at + b * kLanes<acc>);
    add_inner_products<blocks>(vectors, numbers, dims, at, sum);
    DHVT_EACH (b, blocks)
      DHVT_EACH (k, kCandidates) store(out + k * kStride + at + b * kLanes<acc>, sum[b][k]);
  });
}

// From the gradient of a block's assignment to that of the scores, but for the factor 1 / temperature.
template <typename acc>
DHVT_HD void softmax_backward_block(const acc* weight, const Lanes<acc> (&gradient)[kCandidates], acc* out) {
  Lanes<acc> value[kCandidates];
  DHVT_EACH (k, kCandidates) value[k] = load(weight + k * kStride) * gradient[k];
  const Lanes<acc> inner = combined(value, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
  DHVT_EACH (k, kCandidates) store(out + k * kStride, value[k] - load(weight + k * kStride) * inner);
}

template <typename acc>
DHVT_HD void softmax_backward(const acc* weight, acc* gradient, int padded) {
  for (int n = 0; n < padded; n += kLanes<acc>) {
    Lanes<acc> value[kCandidates];
    DHVT_EACH (k, kCandidates) value[k] = load(gradient + k * kStride + n);
    softmax_backward_block(weight + n, value, gradient + n);
  }
}

// tile.gradient = the gradient of the scores, where that of the assignment is `constant`s + vectors . x.
template <typename acc>
DHVT_HD void linear_backward(const acc* constant, const Vectors<acc>& vectors, const Cell<acc>& cell, int64_t channels,
                             int64_t start, int padded, const Tile<acc>& tile) {
  const Vectors<acc> of_position = vectors.from(channels);
  each_blocks<acc>(padded, [&]<int blocks>(std::integral_constant<int, blocks>, int at) __attribute__((always_inline)) {
    Lanes<acc> sum[blocks][kCandidates];
    DHVT_EACH (b, blocks)
      DHVT_EACH (k, kCandidates) sum[b][k] = splat(constant[k * kChunk]);
    add_inner_products<blocks>(vectors, feature_part(cell, start), channels, at, sum);
    add_inner_products<blocks>(of_position, position_part(cell, channels, tile), 2, at, sum);
    DHVT_EACH (b, blocks) {
      const int here = at + b * kLanes<acc>;
      softmax_backward_block(tile.weight + here, sum[b], tile.gradient + here);
    }
  });
}

// Adds to `channels` gradient planes of neighbouring blocks what the shares give, sum_k weight[k] vectors_k, and what
// the scores give, factor * sum_k gradient[k] difference_k.
template <int channels, bool shares, bool scores, int blocks, typename acc>
DHVT_HD void spread_group(const Tile<acc>& tile, const Vectors<acc>& vectors, const acc* difference, acc factor, int at,
                          Lanes<acc> (&out)[blocks][channels]) {
  Lanes<acc> from_scores[blocks][channels] = {};
  const auto add = [&](const acc* rows, int k, auto number, auto& to) __attribute__((always_inline)) {
    Lanes<acc> value[blocks];
    DHVT_EACH (b, blocks) value[b] = load(rows + k * kStride + at + b * kLanes<acc>);
    DHVT_EACH (c, channels) {
      const Lanes<acc> v = factor_of_blocks<blocks>(number(c));
      DHVT_EACH (b, blocks) to[b][c] += value[b] * v;
    }
  };
  if constexpr (scores)
    DHVT_EACH (k, kCandidates) {
      if (k != kOwnCell)
        add(tile.gradient, k, [&](int c) { return difference[(c * kOthers + other_index(k)) * kChunk]; }, from_scores);
    }
  if constexpr (shares)
    DHVT_EACH (k, kCandidates) {
      add(tile.weight, k, [&](int c) { return vectors.row[k / 3][c * vectors.pitch + k % 3 - 1]; }, out);
    }
  if constexpr (scores)
    DHVT_EACH (b, blocks)
      DHVT_EACH (c, channels) out[b][c] += factor * from_scores[b][c];
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
  constexpr int size = kLanes<acc>;
  const int whole = count / size * size;
  each_blocks<acc>(whole, [&]<int blocks>(std::integral_constant<int, blocks>, int at) __attribute__((always_inline)) {
    Lanes<acc> value[blocks][channels];
    DHVT_EACH (b, blocks)
      DHVT_EACH (c, channels) value[b][c] = out.fresh ? Lanes<acc>{} : load(out.data + c * out.plane + at + b * size);
    spread_group<channels, shares, scores>(tile, vectors, difference, factor, at, value);
    DHVT_EACH (b, blocks)
      DHVT_EACH (c, channels) store(out.data + c * out.plane + at + b * size, value[b][c]);
  });
  if (whole == count) return;
  Lanes<acc> value[1][channels];
  DHVT_EACH (c, channels)
    value[0][c] = out.fresh ? Lanes<acc>{} : load_some(out.data + c * out.plane + whole, count - whole);
  spread_group<channels, shares, scores>(tile, vectors, difference, factor, whole, value);
  DHVT_EACH (c, channels) store_some(out.data + c * out.plane + whole, value[0][c], count - whole);
}

template <bool shares, bool scores, typename acc>
DHVT_HD void spread(const Tile<acc>& tile, Vectors<acc> vectors, const acc* difference, acc factor, int64_t channels,
                    int count, GradientPlanes<acc> out) {
  const auto group = [&](auto size) __attribute__((always_inline)) {
    spread_channels<size, shares, scores>(tile, vectors, difference, factor, count, out);
    vectors = vectors.from(size);
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
