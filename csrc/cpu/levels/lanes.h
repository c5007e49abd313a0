// Vectors of the widest register of a level, in portable vector extensions. Only for sources in levels/.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "macros.h"

namespace dhvt {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T>
struct Lanes;
template <>
struct Lanes<float> {
  static constexpr int count = kVectorBytes / 4;
  typedef float vector __attribute__((vector_size(kVectorBytes)));
  typedef int32_t mask __attribute__((vector_size(kVectorBytes)));
};
template <>
struct Lanes<double> {
  static constexpr int count = kVectorBytes / 8;
  typedef double vector __attribute__((vector_size(kVectorBytes)));
  typedef int64_t mask __attribute__((vector_size(kVectorBytes)));
};

template <typename V, typename T>
DHVT_HD V load_lanes(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof(V));
  return v;
}

template <typename V, typename T>
DHVT_HD void store_lanes(T* p, const V& v) {
  std::memcpy(p, &v, sizeof(V));
}

// All bits of the lanes below n.
template <typename T>
DHVT_HD typename Lanes<T>::mask first_lanes(int64_t n) {
  using mask = typename Lanes<T>::mask;
  using index = std::remove_reference_t<decltype(mask{}[0])>;
  mask lane;
  for (int i = 0; i < Lanes<T>::count; ++i) lane[i] = i;
  return lane < static_cast<index>(n);
}

// v where the mask is set, else 0 (whatever v is).
template <typename V, typename M>
DHVT_HD V keep(const V& v, const M& mask) {
  return reinterpret_cast<V>(reinterpret_cast<M>(v) & mask);
}

template <typename V, int... i>
DHVT_HD V neighbours_added(const V& a, const V& b, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, (2 * i)...) + __builtin_shufflevector(a, b, (2 * i + 1)...);
}

// Lane i of the result is the sum of all lanes of v[i]. v [lanes], overwritten
template <typename V>
DHVT_HD V sums_of(V* v) {
  constexpr int count = sizeof(V) / sizeof(v[0][0]);
  for (int n = count / 2; n > 0; n /= 2)
    for (int i = 0; i < n; ++i)
      v[i] = neighbours_added(v[2 * i], v[2 * i + 1], std::make_integer_sequence<int, count>{});
  return v[0];
}

}  // namespace dhvt
