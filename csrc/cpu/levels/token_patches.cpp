#include "cpu/levels/token_patches_kernels.h"

#include <algorithm>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace dhvt::DHVT_LEVEL {
namespace {

// Where the samples of a row lie in memory, relative to its first pixel. [P]
template <typename acc>
struct Columns {
  const int64_t *low, *high;
  const acc* share;
  int64_t size;
};

// One row resampled along x: the two pixels of each sample are fetched first, then all are mixed at once, without a
// branch per sample. value(pixel) is the number to resample. fetched [2 P], out [P].
template <typename T, typename acc, typename Value>
void resample_row(const T* row, const Columns<acc>& x, const Value& value, acc* __restrict fetched,
                  acc* __restrict out) {
  for (int64_t j = 0; j < x.size; ++j) {
    fetched[j] = value(row[x.low[j]]);
    fetched[x.size + j] = value(row[x.high[j]]);
  }
  for (int64_t j = 0; j < x.size; ++j) {
    const acc mixed = (acc(1) - x.share[j]) * fetched[j] + x.share[j] * fetched[x.size + j];
    out[j] = x.share[j] > 0 ? mixed : fetched[j];
  }
}

// Bilinear resampling of one plane in two steps: rows are resampled along x once each and kept while neighbouring
// samples need them, then mixed along y. row(y, fetched, out) resamples row y. out [P,P].
template <typename scalar_t, typename acc, typename Row>
DHVT_HD void resample(const Axis<acc>& y, int64_t size, acc* rows, const Row& row, scalar_t* __restrict out) {
  const int64_t padded = (size + kPatchPadding - 1) / kPatchPadding * kPatchPadding;
  acc *first = rows, *second = rows + padded, *fetched = rows + 2 * padded;
  int64_t in_first = -1, in_second = -1;
  for (int64_t i = 0; i < size; ++i, out += size) {
    if (y.low[i] == in_second) {
      std::swap(first, second);
      std::swap(in_first, in_second);
    }
    if (y.low[i] != in_first) row(in_first = y.low[i], fetched, first);
    const acc* __restrict a = first;
    const acc t = y.share[i], rest = acc(1) - t;
    if (t == 0) {  // not 1 * a + 0 * b, which is NaN where b is not finite
      for (int64_t j = 0; j < size; ++j) out[j] = scalar_t(a[j]);
      continue;
    }
    if (y.high[i] != in_second) row(in_second = y.high[i], fetched, second);
    const acc* __restrict b = second;
    for (int64_t j = 0; j < size; ++j) out[j] = scalar_t(rest * a[j] + t * b[j]);
  }
}

#ifdef __AVX512F__
// Shares t of the second of two numbers.
struct Mix {
  __m512 rest, share;
  __mmask16 some;  // where t > 0

  DHVT_HD explicit Mix(__m512 t)
      : rest(_mm512_sub_ps(_mm512_set1_ps(1), t)),
        share(t),
        some(_mm512_cmp_ps_mask(t, _mm512_setzero_ps(), _CMP_GT_OQ)) {}

  // (1 - t) a + t b, a for t = 0
  DHVT_HD __m512 operator()(__m512 a, __m512 b) const {
    return _mm512_mask3_fmadd_ps(share, b, _mm512_mul_ps(rest, a), some);
  }
};

// Sixteen columns of samples: the pixels of each, counted from `base`, of `span` pixels.
struct Block {
  int64_t base, span;
  __m512i low, high;
  Mix mix;
  __mmask16 used;
};

DHVT_HD Block block_of(const Columns<float>& x, int64_t j) {
  const int64_t n = std::min<int64_t>(16, x.size - j), base = x.low[j];
  const auto relative = [=](const int64_t* offset) {
    const __m512i first = _mm512_set1_epi64(base);
    const __m512i lower_halves = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_epi32(_mm512_sub_epi64(_mm512_loadu_si512(offset + j), first), lower_halves,
                                     _mm512_sub_epi64(_mm512_loadu_si512(offset + j + 8), first));
  };
  const __mmask16 used = static_cast<__mmask16>((1u << n) - 1);
  return {base,
          x.high[j + n - 1] - base + 1,
          relative(x.low),
          relative(x.high),
          Mix(_mm512_maskz_loadu_ps(used, x.share + j)),
          used};
}

// Numbers `index` of N vectors.
template <int N>
DHVT_HD __m512 pick(const __m512 (&from)[N], __m512i index) {
  if constexpr (N == 1) return _mm512_maskz_permutexvar_ps(__mmask16(-1), index, from[0]);
  if constexpr (N == 2) return _mm512_permutex2var_ps(from[0], index, from[1]);
  if constexpr (N == 4)
    return _mm512_mask_blend_ps(_mm512_test_epi32_mask(index, _mm512_set1_epi32(32)),
                                _mm512_permutex2var_ps(from[0], index, from[1]),
                                _mm512_permutex2var_ps(from[2], index, from[3]));
}

// A block of the columns of a plane. Two rows are mixed pixel by pixel in N vectors that hold all they need, and only
// then resampled along x, by permutations; N = 0: by gathers. value(16 pixels) are the 16 numbers to resample.
template <int N, typename T, typename Value>
DHVT_HD void resample_columns(const T* plane, int64_t stride, const Axis<float>& y, const Block& x, int64_t size,
                              const Value& value, float* out) {
  __mmask16 held[N + 1];
  for (int v = 0; v < N; ++v) held[v] = static_cast<__mmask16>(_bzhi_u64(~0ull, x.span) >> (16 * v));
  for (int64_t i = 0; i < size; ++i) {
    const T *a = plane + y.low[i] * stride + x.base, *b = plane + y.high[i] * stride + x.base;
    const Mix mix(_mm512_set1_ps(y.share[i]));
    __m512 sample;
    if constexpr (N == 0) {
      const auto gather = [&](const T* row, __m512i index) {
        return value(_mm512_mask_i32gather_epi32(_mm512_setzero_si512(), x.used, index, row, 4));
      };
      sample = x.mix(mix(gather(a, x.low), gather(b, x.low)), mix(gather(a, x.high), gather(b, x.high)));
    } else {
      __m512 mixed[N];
      for (int v = 0; v < N; ++v)
        mixed[v] = mix(value(_mm512_maskz_loadu_epi32(held[v], a + 16 * v)),
                       value(_mm512_maskz_loadu_epi32(held[v], b + 16 * v)));
      sample = x.mix(pick(mixed, x.low), pick(mixed, x.high));
    }
    _mm512_mask_storeu_ps(out + i * size, x.used, sample);
  }
}

template <typename T, typename Value>
void resample_avx512(const T* plane, int64_t stride, const Axis<float>& y, const Columns<float>& x, int64_t size,
                     const Value& value, float* out) {
  for (int64_t j = 0; j < size; j += 16) {
    const Block block = block_of(x, j);
    if (block.span <= 16)
      resample_columns<1>(plane, stride, y, block, size, value, out + j);
    else if (block.span <= 32)
      resample_columns<2>(plane, stride, y, block, size, value, out + j);
    else if (block.span <= 64)
      resample_columns<4>(plane, stride, y, block, size, value, out + j);
    else
      resample_columns<0>(plane, stride, y, block, size, value, out + j);
  }
}
#endif

// A plane [H,W] whose rows are `stride` apart.
template <typename scalar_t, typename acc>
void resample_pixels(const scalar_t* plane, int64_t stride, const Axis<acc>& y, const Columns<acc>& x, int64_t size,
                     acc* rows, scalar_t* out) {
#ifdef __AVX512F__
  if constexpr (std::is_same_v<scalar_t, float>) {
    if (x.high[size - 1] - x.low[0] < INT32_MAX)
      return resample_avx512(plane, stride, y, x, size, [](__m512i v) { return _mm512_castsi512_ps(v); }, out);
  }
#endif
  const auto value = [](scalar_t v) { return static_cast<acc>(v); };
  resample(
      y, size, rows,
      [&](int64_t from, acc* fetched, acc* row) { resample_row(plane + from * stride, x, value, fetched, row); }, out);
}

// The same of the indicator of label k.
template <typename scalar_t, typename acc>
void resample_labels(const int32_t* plane, int64_t stride, int32_t k, const Axis<acc>& y, const Columns<acc>& x,
                     int64_t size, acc* rows, scalar_t* out) {
#ifdef __AVX512F__
  if constexpr (std::is_same_v<scalar_t, float>) {
    const __m512i own = _mm512_set1_epi32(k);
    const __m512 one = _mm512_set1_ps(1);
    const auto value = [=](__m512i v) { return _mm512_maskz_mov_ps(_mm512_cmpeq_epi32_mask(v, own), one); };
    return resample_avx512(plane, stride, y, x, size, value, out);
  }
#endif
  const auto value = [k](int32_t v) { return v == k ? acc(1) : acc(0); };
  resample(
      y, size, rows,
      [&](int64_t from, acc* fetched, acc* row) { resample_row(plane + from * stride, x, value, fetched, row); }, out);
}

// Fetches the ends of the rows that a plane's samples need: rows of a box are too short for the hardware to notice.
template <typename T, typename acc>
void fetch_ahead(const T* plane, int64_t stride, const Axis<acc>& y, const Columns<acc>& x) {
  for (int64_t i = 0; i < x.size; ++i)
    for (const int64_t row : {y.low[i], y.high[i]}) {
      __builtin_prefetch(plane + row * stride + x.low[0]);
      __builtin_prefetch(plane + row * stride + x.high[x.size - 1]);
    }
}

}  // namespace

template <typename scalar_t>
void patch_of_box(const ImageView<const scalar_t>& image, const int32_t* label, const int32_t* box, int64_t b,
                  int64_t k, int64_t size, const PatchScratch<acc_t<scalar_t>>& scratch, scalar_t* patch,
                  scalar_t* mask) {
  using acc = acc_t<scalar_t>;
  set_axis(scratch.y, box[0], box[2], size, image.height);
  set_axis(scratch.x, box[1], box[3], size, image.width);
  for (int64_t j = 0; j < size; ++j) {
    scratch.low[j] = scratch.x.low[j] * image.column_stride;
    scratch.high[j] = scratch.x.high[j] * image.column_stride;
  }
  const Columns<acc> columns{scratch.low, scratch.high, scratch.x.share, size};
  const Columns<acc> places{scratch.x.low, scratch.x.high, scratch.x.share, size};
  const scalar_t* plane = image.data + b * image.batch_stride;
  for (int64_t c = 0; c < image.channels; ++c, plane += image.channel_stride) {
    if (c + 1 < image.channels)
      fetch_ahead(plane + image.channel_stride, image.row_stride, scratch.y, columns);
    else
      fetch_ahead(label, image.width, scratch.y, places);
    resample_pixels(plane, image.row_stride, scratch.y, columns, size, scratch.rows, patch + c * size * size);
  }
  resample_labels(label, image.width, static_cast<int32_t>(k), scratch.y, places, size, scratch.rows, mask);
}

// Every row of the gradient is first spread along x, in a scratch of the box's width, and then added to two rows.
template <typename scalar_t>
void add_patch_gradient(const scalar_t* grad, const Axis<acc_t<scalar_t>>& y, const Axis<acc_t<scalar_t>>& x,
                        int64_t size, int64_t top, int64_t bottom, int64_t width, acc_t<scalar_t>* scratch,
                        acc_t<scalar_t>* plane) {
  using acc = acc_t<scalar_t>;
  const int64_t left = x.low[0], extent = x.high[size - 1] - left + 1;
  for (int64_t i = 0; i < size; ++i, grad += size) {
    const auto within = [&](int64_t row) { return row >= top && row < bottom; };
    const bool first = within(y.low[i]), second = y.share[i] > 0 && within(y.high[i]);
    if (!first && !second) continue;
    acc* __restrict spread = scratch;
    std::fill_n(spread, extent, acc(0));
    for (int64_t j = 0; j < size; ++j) {
      const acc value = static_cast<acc>(grad[j]);
      spread[x.low[j] - left] += (acc(1) - x.share[j]) * value;
      if (x.share[j] > 0) spread[x.high[j] - left] += x.share[j] * value;
    }
    const auto add = [&](int64_t row, acc share) {
      acc* __restrict target = plane + (row - top) * width + left;
      for (int64_t j = 0; j < extent; ++j) target[j] += share * spread[j];
    };
    if (first) add(y.low[i], acc(1) - y.share[i]);
    if (second) add(y.high[i], y.share[i]);
  }
}

#define INSTANTIATE(scalar_t)                                                                                    \
  template void patch_of_box(const ImageView<const scalar_t>&, const int32_t*, const int32_t*, int64_t, int64_t, \
                             int64_t, const PatchScratch<acc_t<scalar_t>>&, scalar_t*, scalar_t*);               \
  template void add_patch_gradient(const scalar_t*, const Axis<acc_t<scalar_t>>&, const Axis<acc_t<scalar_t>>&,  \
                                   int64_t, int64_t, int64_t, int64_t, acc_t<scalar_t>*, acc_t<scalar_t>*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)

}  // namespace dhvt::DHVT_LEVEL
