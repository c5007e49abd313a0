// Runs of equal labels along a row, 64 pixels at a time. Only for sources in levels/.
#pragma once

#include <bit>
#include <cstdint>

#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "cpu/tile.h"
#include "macros.h"

namespace dhvt {

// One bit per pixel of [0, n), n <= 64: whether the labels differ, and whether a label is in [0, limit).
#ifdef __AVX512F__
template <typename Compare>
DHVT_HD uint64_t collect_bits(int64_t n, const Compare& compare) {
  uint64_t bits = 0;
  if (n == 64) {
    for (int64_t i = 0; i < 64; i += 16) bits |= uint64_t(compare(i, __mmask16(0xffff))) << i;
  } else {
    for (int64_t i = 0; i < n; i += 16)
      bits |= uint64_t(compare(i, n - i >= 16 ? __mmask16(0xffff) : __mmask16((1 << (n - i)) - 1))) << i;
  }
  return bits;
}

DHVT_HD uint64_t differ_bits(const int32_t* a, const int32_t* b, int64_t n) {
  return collect_bits(n, [=](int64_t i, __mmask16 mask) {
    return _mm512_mask_cmpneq_epi32_mask(mask, _mm512_maskz_loadu_epi32(mask, a + i),
                                         _mm512_maskz_loadu_epi32(mask, b + i));
  });
}

DHVT_HD uint64_t valid_bits(const int32_t* a, uint32_t limit, int64_t n) {
  const __m512i above = _mm512_set1_epi32(static_cast<int32_t>(limit));
  return collect_bits(n, [=](int64_t i, __mmask16 mask) {
    return _mm512_mask_cmplt_epu32_mask(mask, _mm512_maskz_loadu_epi32(mask, a + i), above);
  });
}
#else
DHVT_HD uint64_t differ_bits(const int32_t* a, const int32_t* b, int64_t n) {
  uint64_t bits = 0;
  int64_t i = 0;
#ifdef __SSE2__
  for (; i + 4 <= n; i += 4) {
    const __m128i equal = _mm_cmpeq_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a + i)),
                                          _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + i)));
    bits |= uint64_t(_mm_movemask_ps(_mm_castsi128_ps(equal)) ^ 15) << i;
  }
#endif
  for (; i < n; ++i) bits |= uint64_t(a[i] != b[i]) << i;
  return bits;
}

DHVT_HD uint64_t valid_bits(const int32_t* a, uint32_t limit, int64_t n) {
  uint64_t bits = 0;
  int64_t i = 0;
#ifdef __SSE2__
  const __m128i sign = _mm_set1_epi32(INT32_MIN);
  const __m128i above = _mm_xor_si128(_mm_set1_epi32(static_cast<int32_t>(limit)), sign);
  for (; i + 4 <= n; i += 4) {
    const __m128i label = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a + i)), sign);
    bits |= uint64_t(_mm_movemask_ps(_mm_castsi128_ps(_mm_cmplt_epi32(label, above)))) << i;
  }
#endif
  for (; i < n; ++i) bits |= uint64_t(static_cast<uint32_t>(a[i]) < limit) << i;
  return bits;
}
#endif

// The bits of the last pixels of runs in a word of n pixels. The pixel after it is read, unless a row of a tile ends
// here.
DHVT_HD uint64_t run_ends(const int32_t* word, int64_t n, bool last) {
  return differ_bits(word, word + 1, n - last) | uint64_t(last) << (n - 1);
}

// Calls on_run(x, end) for every run in [left, right) of a row.
template <typename OnRun>
DHVT_HD void for_each_run(const int32_t* row, int64_t left, int64_t right, const OnRun& on_run) {
  int64_t begin = left;
  for (int64_t x = left; x < right; x += 64) {
    const int64_t n = right - x < 64 ? right - x : 64;
    for (uint64_t ends = run_ends(row + x, n, x + n == right); ends != 0; ends &= ends - 1) {
      const int64_t end = x + std::countr_zero(ends) + 1;
      on_run(begin, end);
      begin = end;
    }
  }
}

// The slot of a valid label.
DHVT_HD int32_t slot_of(TileRuns& out, int32_t label) {
  SlotEntry& entry = out.table[label];
  if (entry.stamp != out.stamp) {
    entry = {out.stamp, static_cast<int32_t>(out.num_slots)};
    out.labels[out.num_slots++] = label;
  }
  return entry.slot;
}

}  // namespace dhvt
