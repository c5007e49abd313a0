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

#ifdef __AVX512F__
DHVT_HD __mmask16 lanes_below(int64_t n) { return n >= 16 ? __mmask16(0xffff) : __mmask16((1u << n) - 1); }

// The offsets of 16 samples relative to the first. Clamped, they do not decrease.
DHVT_HD __m512i relative(const int64_t* offset, int64_t base, int64_t n) {
  alignas(64) int32_t out[16] = {};
  for (int64_t j = 0; j < n; ++j) out[j] = static_cast<int32_t>(offset[j] - base);
  return _mm512_load_si512(out);
}

// The same by permutations of 32 pixels where the samples lie that close, else by gathers. T: float or int32_t.
// value(16 pixels) are the 16 numbers. out is padded to whole vectors.
template <typename T, typename Value>
void resample_row_avx512(const T* row, const Columns<float>& x, const Value& value, float* out) {
  for (int64_t j = 0; j < x.size; j += 16) {
    const int64_t n = std::min<int64_t>(16, x.size - j), base = x.low[j], span = x.high[j + n - 1] - base + 1;
    const __mmask16 used = lanes_below(n);
    const __m512i low = relative(x.low + j, base, n), high = relative(x.high + j, base, n);
    const __m512 share = _mm512_maskz_loadu_ps(used, x.share + j), zero = _mm512_setzero_ps();
    __m512 a, b;
    if (span <= 32) {
      const __m512 near = value(_mm512_maskz_loadu_epi32(lanes_below(span), row + base));
      const __m512 far = span > 16 ? value(_mm512_maskz_loadu_epi32(lanes_below(span - 16), row + base + 16)) : zero;
      a = _mm512_permutex2var_ps(near, low, far);
      b = _mm512_permutex2var_ps(near, high, far);
    } else {
      const __m512i none = _mm512_setzero_si512();
      a = value(_mm512_mask_i32gather_epi32(none, used, low, row + base, 4));
      b = value(_mm512_mask_i32gather_epi32(none, used, high, row + base, 4));
    }
    const __mmask16 mixes = _mm512_cmp_ps_mask(share, zero, _CMP_GT_OQ);
    const __m512 mixed = _mm512_fmadd_ps(share, b, _mm512_mul_ps(_mm512_sub_ps(_mm512_set1_ps(1), share), a));
    _mm512_storeu_ps(out + j, _mm512_mask_blend_ps(mixes, a, mixed));
  }
}
#endif

template <typename scalar_t, typename acc>
void resample_pixels(const scalar_t* row, const Columns<acc>& x, acc* fetched, acc* out) {
#ifdef __AVX512F__
  if constexpr (std::is_same_v<scalar_t, float>) {
    if (x.high[x.size - 1] - x.low[0] < INT32_MAX)
      return resample_row_avx512(row, x, [](__m512i v) { return _mm512_castsi512_ps(v); }, out);
  }
#endif
  resample_row(row, x, [](scalar_t v) { return static_cast<acc>(v); }, fetched, out);
}

// The row of the indicator of label k.
template <typename acc>
void resample_labels(const int32_t* row, const Columns<acc>& x, int32_t k, acc* fetched, acc* out) {
#ifdef __AVX512F__
  if constexpr (std::is_same_v<acc, float>) {
    const __m512i own = _mm512_set1_epi32(k);
    const __m512 one = _mm512_set1_ps(1);
    return resample_row_avx512(
        row, x, [=](__m512i v) { return _mm512_maskz_mov_ps(_mm512_cmpeq_epi32_mask(v, own), one); }, out);
  }
#endif
  resample_row(row, x, [k](int32_t v) { return v == k ? acc(1) : acc(0); }, fetched, out);
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
  for (int64_t c = 0; c < image.channels; ++c) {
    const scalar_t* plane = image.data + b * image.batch_stride + c * image.channel_stride;
    resample(
        scratch.y, size, scratch.rows,
        [&](int64_t y, acc* fetched, acc* out) {
          resample_pixels(plane + y * image.row_stride, columns, fetched, out);
        },
        patch + c * size * size);
  }
  const Columns<acc> places{scratch.x.low, scratch.x.high, scratch.x.share, size};
  resample(
      scratch.y, size, scratch.rows,
      [&](int64_t y, acc* fetched, acc* out) {
        resample_labels(label + y * image.width, places, static_cast<int32_t>(k), fetched, out);
      },
      mask);
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
