// Vectors of the widest kind of a level, as compiler vector extensions: they also compile for other processors.
#pragma once

#include <cstdint>
#include <utility>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "macros.h"

namespace dhvt::DHVT_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T, int bytes>
struct VectorOf;
#define DHVT_VECTOR(T, I, B)                              \
  template <>                                             \
  struct VectorOf<T, B> {                                 \
    typedef T type __attribute__((vector_size(B)));       \
    typedef I index_type __attribute__((vector_size(B))); \
  };
DHVT_VECTOR(float, int32_t, 16)
DHVT_VECTOR(float, int32_t, 32)
DHVT_VECTOR(float, int32_t, 64)
DHVT_VECTOR(double, int64_t, 16)
DHVT_VECTOR(double, int64_t, 32)
DHVT_VECTOR(double, int64_t, 64)
#undef DHVT_VECTOR

template <typename T>
using Lanes = typename VectorOf<T, kVectorBytes>::type;
// What comparisons of lanes give: 0 or -1.
template <typename T>
using Index = typename VectorOf<T, kVectorBytes>::index_type;
template <typename T>
constexpr int kLanes = kVectorBytes / sizeof(T);

template <typename V, typename T>
DHVT_HD V load_as(const T* from) {
  V out;
  __builtin_memcpy(&out, from, sizeof(V));
  return out;
}

template <typename T>
DHVT_HD Lanes<T> load(const T* from) {
  return load_as<Lanes<T>>(from);
}

template <typename V, typename T>
DHVT_HD void store(T* to, V value) {
  __builtin_memcpy(to, &value, sizeof(V));
}

// The first n lanes; the others are 0.
template <typename T>
DHVT_HD Lanes<T> load_some(const T* from, int n) {
  Lanes<T> out = {};
  for (int l = 0; l < kLanes<T>; ++l)
    if (l < n) out[l] = from[l];
  return out;
}

template <typename T>
DHVT_HD void store_some(T* to, Lanes<T> value, int n) {
  for (int l = 0; l < kLanes<T>; ++l)
    if (l < n) to[l] = value[l];
}

template <typename T>
DHVT_HD Lanes<T> splat(T value) {
  return value - Lanes<T>{};  // not +, which changes -0
}

template <typename T, int... l>
DHVT_HD Lanes<T> numbered(std::integer_sequence<int, l...>) {
  return Lanes<T>{T(l)...};
}

// 0, 1, 2, ...
template <typename T>
DHVT_HD Lanes<T> numbers() {
  return numbered<T>(std::make_integer_sequence<int, kLanes<T>>{});
}

// For what several operations use: else the compiler loads it again for each, and the loads become the limit.
template <typename V>
DHVT_HD void keep_in_register([[maybe_unused]] V& value) {
#ifdef __AVX512F__
  asm("" : "+v"(value));
#endif
}

// Not the same as std::max for NaN: either may come out.
template <typename V>
DHVT_HD V maximum(V a, V b) {
  return a > b ? a : b;
}

#ifdef __AVX512F__
DHVT_HD Lanes<float> maximum(Lanes<float> a, Lanes<float> b) {
  return _mm512_maskz_max_ps(__mmask16(-1), a, b);  // maskz: g++ 12 warns of the others
}

DHVT_HD Lanes<float> load_some(const float* from, int n) {
  return _mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), from);
}

DHVT_HD void store_some(float* to, Lanes<float> value, int n) {
  _mm512_mask_storeu_ps(to, __mmask16((1u << n) - 1), value);
}
#endif

// for (int i = 0; i < n; ++i), n <= 16, unrolled: constant indices keep arrays of vectors in registers.
#define DHVT_EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < n; ++i)

// One step of the sum of vectors: lane j gets a's lanes j and j ^ h where j has not bit h, else b's.
template <int h, typename V, int... j>
DHVT_HD V add_halves(V a, V b, std::integer_sequence<int, j...>) {
  constexpr int n = sizeof...(j);
  return __builtin_shufflevector(a, b, ((j & h) ? j + n : j)...) +
         __builtin_shufflevector(a, b, ((j & h) ? (j ^ h) + n : (j ^ h))...);
}

template <int h, typename T, int... j>
DHVT_HD Lanes<T> swapped(Lanes<T> value, std::integer_sequence<int, j...>) {
  return __builtin_shufflevector(value, value, (j ^ h)...);
}
// Adds to lane j the lanes j ^ h, j ^ 2h, ...: for h = 1 all.
template <int h, typename T>
DHVT_HD void fold(Lanes<T>& sum) {
  if constexpr (h < kLanes<T>) {
    sum += swapped<h, T>(sum, std::make_integer_sequence<int, kLanes<T>>{});
    fold<2 * h, T>(sum);
  }
}

// Lane j is part of the sum of vector j % step of those at `from`, of which there are `count`.
template <typename T, int count, int step = 1>
DHVT_HD Lanes<T> partly_added(const T* from) {
  if constexpr (step == count)
    return load(from);
  else
    return add_halves<step>(partly_added<T, count, 2 * step>(from),
                            partly_added<T, count, 2 * step>(from + step * kLanes<T>),
                            std::make_integer_sequence<int, kLanes<T>>{});
}

// out[j] = the sum of the lanes of vector j of the `count` vectors at `from`, at most kLanes.
template <int count, typename T>
DHVT_HD void add_lanes(const T* from, T* out) {
  Lanes<T> sum = partly_added<T, count>(from);
  fold<count, T>(sum);
  store_some(out, sum, count);
}

}  // namespace
}  // namespace dhvt::DHVT_LEVEL
