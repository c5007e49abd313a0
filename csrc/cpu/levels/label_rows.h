// Rows of a label map as bits, 64 pixels to a word, so that a pixel costs a share of a vector comparison and only the
// ends of runs (maximal stretches of one label in a row) cost a step of their own.
#pragma once

#include <cstdint>

#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "macros.h"

namespace dhvt::DHVT_LEVEL {
namespace {

// One bit per lane: differ_lanes where a and b differ, negative_lanes where a is negative, odd_lanes where it is odd.
#if defined(__AVX512F__)
constexpr int kLabelLanes = 16;
DHVT_HD uint32_t differ_lanes(const int32_t* a, const int32_t* b) {
  return _mm512_cmpneq_epi32_mask(_mm512_loadu_si512(a), _mm512_loadu_si512(b));
}
DHVT_HD uint32_t negative_lanes(const int32_t* a) { return _mm512_movepi32_mask(_mm512_loadu_si512(a)); }
DHVT_HD uint32_t odd_lanes(const int32_t* a) {
  return _mm512_test_epi32_mask(_mm512_loadu_si512(a), _mm512_set1_epi32(1));
}
#elif defined(__AVX2__)
constexpr int kLabelLanes = 8;
DHVT_HD __m256i load_lanes(const int32_t* a) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)); }
DHVT_HD uint32_t sign_bits(__m256i a) { return _mm256_movemask_ps(_mm256_castsi256_ps(a)); }
DHVT_HD uint32_t differ_lanes(const int32_t* a, const int32_t* b) {
  return sign_bits(_mm256_cmpeq_epi32(load_lanes(a), load_lanes(b))) ^ 0xff;
}
DHVT_HD uint32_t negative_lanes(const int32_t* a) { return sign_bits(load_lanes(a)); }
DHVT_HD uint32_t odd_lanes(const int32_t* a) { return sign_bits(_mm256_slli_epi32(load_lanes(a), 31)); }
#elif defined(__SSE2__)
constexpr int kLabelLanes = 4;
DHVT_HD __m128i load_lanes(const int32_t* a) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(a)); }
DHVT_HD uint32_t sign_bits(__m128i a) { return _mm_movemask_ps(_mm_castsi128_ps(a)); }
DHVT_HD uint32_t differ_lanes(const int32_t* a, const int32_t* b) {
  return sign_bits(_mm_cmpeq_epi32(load_lanes(a), load_lanes(b))) ^ 0xf;
}
DHVT_HD uint32_t negative_lanes(const int32_t* a) { return sign_bits(load_lanes(a)); }
DHVT_HD uint32_t odd_lanes(const int32_t* a) { return sign_bits(_mm_slli_epi32(load_lanes(a), 31)); }
#else
constexpr int kLabelLanes = 1;
DHVT_HD uint32_t differ_lanes(const int32_t* a, const int32_t* b) { return *a != *b; }
DHVT_HD uint32_t negative_lanes(const int32_t* a) { return *a < 0; }
DHVT_HD uint32_t odd_lanes(const int32_t* a) { return *a & 1; }
#endif

// The bits of `size` <= 64 pixels. The last vector overlaps the one before it; fewer pixels than lanes are copied.
template <typename Lanes>
DHVT_HD uint64_t label_bits(const int32_t* a, const int32_t* b, int32_t size, const Lanes& lanes) {
  uint64_t bits = 0;
  if (size == 64) {
    for (int i = 0; i < 64; i += kLabelLanes) bits |= uint64_t(lanes(a + i, b + i)) << i;
  } else if (size >= kLabelLanes) {
    for (int i = 0; i + kLabelLanes <= size; i += kLabelLanes) bits |= uint64_t(lanes(a + i, b + i)) << i;
    const int last = size - kLabelLanes;
    bits |= uint64_t(lanes(a + last, b + last)) << last;
  } else {
    int32_t padded_a[kLabelLanes] = {}, padded_b[kLabelLanes] = {};
    for (int i = 0; i < size; ++i) padded_a[i] = a[i], padded_b[i] = b[i];
    bits = lanes(padded_a, padded_b) & ((uint64_t(1) << size) - 1);
  }
  return bits;
}

DHVT_HD uint64_t differ_bits(const int32_t* a, const int32_t* b, int32_t size) {
  return label_bits(a, b, size, [](const int32_t* p, const int32_t* q) { return differ_lanes(p, q); });
}

DHVT_HD uint64_t negative_bits(const int32_t* a, int32_t size) {
  return label_bits(a, a, size, [](const int32_t* p, const int32_t*) { return negative_lanes(p); });
}

DHVT_HD uint64_t odd_bits(const int32_t* a, int32_t size) {
  return label_bits(a, a, size, [](const int32_t* p, const int32_t*) { return odd_lanes(p); });
}

DHVT_HD int32_t count_bits(uint64_t bits) { return __builtin_popcountll(bits); }
DHVT_HD int32_t lowest_bit(uint64_t bits) { return __builtin_ctzll(bits); }
DHVT_HD uint64_t up_to_lowest(uint64_t bits) { return bits ^ (bits - 1); }  // inclusive

DHVT_HD int32_t row_words(int32_t width) { return (width + 63) / 64; }
DHVT_HD int32_t word_size(int32_t width, int32_t word) { return width - 64 * word < 64 ? width - 64 * word : 64; }

// Where runs begin, word by word from the left: next() is word `word` of the row.
struct RunStarts {
  const int32_t* row;
  int32_t width;
  uint64_t carry = 1;  // the first pixel begins a run

  DHVT_HD uint64_t next(int32_t word) {
    const int32_t left = width - 1 - 64 * word;  // pixels with a right neighbour
    const uint64_t ends = differ_bits(row + 64 * word, row + 64 * word + 1, left < 64 ? left : 64);
    const uint64_t starts = ends << 1 | carry;
    carry = ends >> 63;
    return starts;
  }
};

}  // namespace
}  // namespace dhvt::DHVT_LEVEL
