#include "cpu/levels/connected_components_kernels.h"

#include <algorithm>
#include <type_traits>

#include "connected_components.h"
#include "cpu/levels/label_rows.h"

namespace dhvt::DHVT_LEVEL {
namespace {

// Appends the columns of the bits of a word; writes at most kRunPadding entries too many.
DHVT_HD int32_t append_columns(uint64_t bits, int32_t x, int32_t* out) {
#ifdef __AVX512F__
  __m512i column =
      _mm512_add_epi32(_mm512_set1_epi32(x), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  int32_t size = 0;
  for (int i = 0; i < 64; i += 16, column = _mm512_add_epi32(column, _mm512_set1_epi32(16))) {
    const auto lanes = static_cast<uint16_t>(bits >> i);
    _mm512_storeu_si512(out + size, _mm512_maskz_compress_epi32(lanes, column));
    size += count_bits(lanes);
  }
  return size;
#else
  const int32_t size = count_bits(bits);
  for (int32_t done = 0; done < size; done += 4) {
    for (int k = 0; k < 4; ++k, bits &= bits - 1) out[done + k] = x + lowest_bit(bits | uint64_t(1) << 63);
  }
  return size;
#endif
}

// Calls body(a, b) for the runs a above and b below that hold a pixel pair of the bits, from the left.
// above, below: bits where runs begin; *_run: number of the last run that begins before this word.
template <typename Body>
DHVT_HD void for_pairs(uint64_t bits, uint64_t above, uint64_t below, int32_t above_run, int32_t below_run,
                       const Body& body) {
  for (; bits; bits &= bits - 1) {
    const uint64_t before = up_to_lowest(bits);
    body(above_run + count_bits(above & before), below_run + count_bits(below & before));
  }
}

// Pixels of `row` with the label of the pixel above, where that begins an overlap of two runs.
DHVT_HD uint64_t match_bits(const int32_t* above, const int32_t* row, int32_t size, uint64_t above_starts,
                            uint64_t starts) {
  // Both runs go on where neither begins, so the pixel to the left matches too.
  const uint64_t inside = size == 64 ? ~uint64_t(0) : (uint64_t(1) << size) - 1;
  return (above_starts | starts) & ~differ_bits(above, row, size) & ~negative_bits(row, size) & inside;
}

// Dense numbers for the parts of a strip whose runs have their parents in `part`. A parent comes before its runs.
void number_parts(int64_t rows, int32_t width, Strip& strip) {
  int32_t next = 0;
  for (int64_t y = 0; y < rows; ++y) {
    const int32_t first = static_cast<int32_t>(y) * width;
    for (int32_t i = strip.row_begin[y]; i < strip.row_begin[y + 1] - 1; ++i) {
      const int32_t parent = strip.part[i];
      const bool is_root = parent == i;
      const int32_t number = parent < 0 ? -1 : is_root ? next : strip.part[parent];
      strip.part[i] = number;
      strip.size[next] = is_root ? 0 : strip.size[next];
      strip.first[next] = first + strip.begin[i];
      strip.size[number] += strip.begin[i + 1] - strip.begin[i];
      next += is_root;
    }
  }
  strip.num_parts = next;
}

// Moves the values of a row's runs to its pixels.
void expand_row(const uint64_t* starts, const int32_t* begin, const int32_t* values, int32_t width, int32_t* out);

#ifdef __AVX2__

// order[bits][i]: how many of the bits 1 to i are set.
struct Expansion {
  uint8_t order[256][8];
};
constexpr Expansion make_expansion() {
  Expansion table{};
  for (int bits = 0; bits < 256; ++bits)
    for (int i = 1; i < 8; ++i) table.order[bits][i] = uint8_t(table.order[bits][i - 1] + (bits >> i & 1));
  return table;
}
constexpr Expansion kExpansion = make_expansion();

void expand_row(const uint64_t* starts, const int32_t*, const int32_t* values, int32_t width, int32_t* out) {
  const int32_t* next = values - 1;  // value of the pixel to the left
  for (int32_t x = 0; x < width; x += 8) {
    const auto bits = static_cast<uint8_t>(starts[x / 64] >> x % 64);
    next += bits & 1;
    const __m256i order =
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kExpansion.order[bits])));
    const __m256i pixels =
        _mm256_permutevar8x32_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(next)), order);
    next += count_bits(bits >> 1);
    if (x + 8 <= width) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + x), pixels);
    } else {
      const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
      _mm256_maskstore_epi32(out + x, _mm256_cmpgt_epi32(_mm256_set1_epi32(width - x), lane), pixels);
    }
  }
}

#else

// Eight pixels at a time: what goes past a run is overwritten by the next one of the row.
void expand_row(const uint64_t*, const int32_t* begin, const int32_t* values, int32_t width, int32_t* out) {
  for (int32_t i = 0, x = 0; x < width; ++i) {
    const int32_t end = begin[i + 1];
    for (; x < end && x + 8 <= width; x += 8)
      for (int32_t k = 0; k < 8; ++k) out[x + k] = values[i];
    for (; x < end; ++x) out[x] = values[i];
    x = end;
  }
}

#endif

// values [runs of the row]: value [parts of the image] of their parts, -1 without one.
void row_values(const Strip& strip, int64_t y, const int32_t* value, int32_t* values) {
  const int32_t* part = strip.part + strip.row_begin[y];
  const int32_t count = strip.row_begin[y + 1] - 1 - strip.row_begin[y];
  value += strip.first_part;
  for (int32_t i = 0; i < count; ++i) values[i] = part[i] < 0 ? -1 : value[part[i]];
}

// sums [block] += the sums over the pixels [begin, end) of `block` <= 4 planes.
template <int block, typename scalar_t>
DHVT_HD void sum_run(const scalar_t* const* plane, int64_t step, int64_t begin, int64_t end, double* sums) {
  double sum[block] = {};
  for (int64_t x = begin; x < end; ++x)
    for (int c = 0; c < block; ++c) sum[c] += acc_t<scalar_t>(plane[c][x * step]);
  for (int c = 0; c < block; ++c) sums[c] += sum[c];
}

#ifdef __AVX2__
// The same for rows of floats, pixels side by side in memory: without a branch for each pixel of a short run. Pixels
// past the end add 0, which changes no sum; planes past the block repeat its last one.
template <int block>
DHVT_HD void sum_dense_run(const float* const* plane, int64_t begin, int64_t end, double* sums) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  __m256d sum = _mm256_setzero_pd();
  for (int64_t x = begin; x < end; x += 8) {
    const __m256i inside = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(end - x)), lane);
    const auto load = [&](int c) { return _mm256_maskload_ps(plane[c < block ? c : block - 1] + x, inside); };
    const __m256 low01 = _mm256_unpacklo_ps(load(0), load(1)), high01 = _mm256_unpackhi_ps(load(0), load(1));
    const __m256 low23 = _mm256_unpacklo_ps(load(2), load(3)), high23 = _mm256_unpackhi_ps(load(2), load(3));
    const auto join = [](__m256 a, __m256 b, bool high) {
      const __m256d p = _mm256_castps_pd(a), q = _mm256_castps_pd(b);
      return _mm256_castpd_ps(high ? _mm256_unpackhi_pd(p, q) : _mm256_unpacklo_pd(p, q));
    };
    // pixels[i]: the planes of pixel x + i, then those of pixel x + i + 4.
    const __m256 pixels[4] = {join(low01, low23, false), join(low01, low23, true), join(high01, high23, false),
                              join(high01, high23, true)};
    for (int i = 0; i < 4; ++i) sum = _mm256_add_pd(sum, _mm256_cvtps_pd(_mm256_castps256_ps128(pixels[i])));
    if (end - x <= 4) break;  // most runs are short
    for (int i = 0; i < 4; ++i) sum = _mm256_add_pd(sum, _mm256_cvtps_pd(_mm256_extractf128_ps(pixels[i], 1)));
  }
  alignas(32) double values[4];
  _mm256_store_pd(values, sum);
  for (int c = 0; c < block; ++c) sums[c] += values[c];
}
#endif

template <int block, typename scalar_t>
DHVT_HD void sum_row(const Strip& strip, const int32_t* slot, const int32_t* runs, int32_t count,
                     const scalar_t* const* plane, int64_t step, int64_t channels, double* sums) {
  for (int32_t k = 0; k < count; ++k) {
    const int32_t i = runs[k];
    const int64_t begin = strip.begin[i], end = strip.begin[i + 1];
    double* out = sums + slot[strip.first_part + strip.part[i]] * channels;
#ifdef __AVX2__
    if constexpr (std::is_same_v<scalar_t, float>) {
      if (step == 1) {
        sum_dense_run<block>(plane, begin, end, out);
        continue;
      }
    }
#endif
    sum_run<block>(plane, step, begin, end, out);
  }
}

}  // namespace

void label_strip(const int32_t* labels, int64_t rows, int32_t width, Strip& strip) {
  const int32_t words = row_words(width);
  int32_t* parent = strip.part;
  int32_t runs = 0;
  strip.row_begin[0] = 0;
  for (int64_t y = 0; y < rows; ++y) {
    const int32_t* row = labels + y * width;
    uint64_t* starts = strip.starts + y * words;
    RunStarts run_starts{row, width};
    int32_t above_run = y > 0 ? strip.row_begin[y - 1] - 1 : 0;
    for (int32_t word = 0; word < words; ++word) {
      const int32_t size = word_size(width, word);
      const uint64_t bits = starts[word] = run_starts.next(word);
      const int32_t count = append_columns(bits, 64 * word, strip.begin + runs);
      for (int32_t i = 0; i < count; i += kRunPadding)
        for (int32_t k = 0; k < kRunPadding; ++k) parent[runs + i + k] = runs + i + k;
      const uint64_t negative = negative_bits(row + 64 * word, size) & bits;
      for_pairs(negative, bits, bits, runs - 1, runs - 1, [&](int32_t a, int32_t) { parent[a] = -1; });
      if (y > 0) {
        const uint64_t above = starts[word - words];
        const uint64_t matches = match_bits(row + 64 * word - width, row + 64 * word, size, above, bits);
        for_pairs(matches, above, bits, above_run, runs - 1, [&](int32_t a, int32_t b) {
          // A run's first match only takes over the parent; a second one with another parent is rare.
          const int32_t from = parent[a], to = parent[b];
          const bool fresh = to == b;
          parent[b] = fresh ? from : to;
          if (!fresh & (from != to)) unite(parent, from, to);
        });
        above_run += count_bits(above);
      }
      runs += count;
    }
    strip.begin[runs++] = width;
    strip.row_begin[y + 1] = runs;
  }
  number_parts(rows, width, strip);
}

void join_strips(const int32_t* labels, int32_t width, const Strip& upper, int64_t upper_rows, const Strip& lower,
                 int32_t* parent) {
  const int32_t words = row_words(width);
  const uint64_t* starts = upper.starts + (upper_rows - 1) * words;
  int32_t above_run = upper.row_begin[upper_rows - 1] - 1, below_run = -1;
  for (int32_t word = 0; word < words; ++word) {
    const int32_t* row = labels + 64 * word;
    const uint64_t above = starts[word], below = lower.starts[word];
    for_pairs(match_bits(row - width, row, word_size(width, word), above, below), above, below, above_run, below_run,
              [&](int32_t a, int32_t b) {
                unite(parent, upper.first_part + upper.part[a], lower.first_part + lower.part[b]);
              });
    above_run += count_bits(above);
    below_run += count_bits(below);
  }
}

int64_t find_edges(const int32_t* node, const Strip& strip, int64_t y, int32_t width, const uint64_t* above_starts,
                   int32_t* values, const int32_t* above, int32_t* row, uint64_t* seen, FragmentEdge* edges) {
  const int32_t words = row_words(width), first = strip.row_begin[y];
  const uint64_t* starts = strip.starts + y * words;
  row_values(strip, y, node, values);
  expand_row(starts, strip.begin + first, values, width, row);
  int64_t count = 0;
  const auto add = [&](int32_t a, int32_t b) {
    const auto low = static_cast<uint32_t>(std::min(a, b)), high = static_cast<uint32_t>(std::max(a, b));
    uint64_t& entry = seen[(low * 2654435769u + high * 2246822519u) >> (32 - kSeenBits)];
    const uint64_t pair = uint64_t(high) << 32 | low;
    const bool is_new = entry != pair;
    entry = pair;
    edges[count] = {a / 2, b / 2};
    count += is_new & (a & 1);
    edges[count] = {b / 2, a / 2};
    count += is_new & (b & 1);
  };
  uint64_t to_left = 0;  // bit 0: the pixel left of the word belongs to a fragment
  for (int32_t word = 0; word < words; ++word) {
    const int32_t x = 64 * word, size = word_size(width, word);
    const uint64_t fragments = odd_bits(row + x, size), outside = negative_bits(row + x, size);
    const uint64_t runs = starts[word] & ~outside;
    uint64_t bits = runs & (fragments | fragments << 1 | to_left);
    if (word == 0) bits &= ~uint64_t(1);
    for (; bits; bits &= bits - 1) {
      const int32_t at = x + lowest_bit(bits);
      if (row[at - 1] >= 0) add(row[at - 1], row[at]);
    }
    to_left = fragments >> 63;
    if (!above) continue;
    bits = (starts[word] | above_starts[word]) & (fragments | odd_bits(above + x, size)) &
           differ_bits(above + x, row + x, size) & ~outside & ~negative_bits(above + x, size);
    for (; bits; bits &= bits - 1) {
      const int32_t at = x + lowest_bit(bits);
      add(above[at], row[at]);
    }
  }
  return count;
}

template <typename scalar_t>
void sum_strip(const ImageView<const scalar_t>& features, int64_t b, int64_t top, int64_t rows, const Strip& strip,
               const int32_t* slot, int32_t* runs, double* sums) {
  const int64_t channels = features.channels, step = features.column_stride;
  for (int64_t y = 0; y < rows; ++y) {
    const scalar_t* row = features.pixel(b, top + y, 0);
    int32_t count = 0;  // runs of this row whose sum is needed
    for (int32_t i = strip.row_begin[y]; i < strip.row_begin[y + 1] - 1; ++i) {
      const int32_t part = std::max(strip.part[i], 0);
      runs[count] = i;
      count += (slot[strip.first_part + part] >= 0) & (strip.part[i] >= 0);
    }
    for (int64_t c0 = 0; c0 < channels; c0 += 4) {
      const auto block = static_cast<int>(std::min<int64_t>(4, channels - c0));
      const scalar_t* plane[4];
      for (int c = 0; c < 4; ++c) plane[c] = row + std::min(c0 + c, channels - 1) * features.channel_stride;
      const auto sum = [&](auto size) {
        sum_row<decltype(size)::value>(strip, slot, runs, count, plane, step, channels, sums + c0);
      };
      if (block == 4) sum(std::integral_constant<int, 4>{});
      if (block == 3) sum(std::integral_constant<int, 3>{});
      if (block == 2) sum(std::integral_constant<int, 2>{});
      if (block == 1) sum(std::integral_constant<int, 1>{});
    }
  }
}

void write_strip(const Strip& strip, int64_t rows, int32_t width, const int32_t* value, int32_t* values, int32_t* out) {
  for (int64_t y = 0; y < rows; ++y) {
    row_values(strip, y, value, values);
    expand_row(strip.starts + y * row_words(width), strip.begin + strip.row_begin[y], values, width, out + y * width);
  }
}

#define INSTANTIATE(scalar_t)                                                                                        \
  template void sum_strip(const ImageView<const scalar_t>&, int64_t, int64_t, int64_t, const Strip&, const int32_t*, \
                          int32_t*, double*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)

}  // namespace dhvt::DHVT_LEVEL
