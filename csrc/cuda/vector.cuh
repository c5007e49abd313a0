// Neighbouring numbers read and written at once, from an address that is a multiple of their size.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace dhvt {

template <typename T, int kSize>
struct alignas(sizeof(T) * kSize) Vector {
  T part[kSize];
};

template <int kSize, typename T>
__device__ __forceinline__ Vector<T, kSize> load_vector(const T* from) {
  return *reinterpret_cast<const Vector<T, kSize>*>(from);
}

template <int kSize, typename T>
__device__ __forceinline__ void store_vector(T* to, const T (&values)[kSize]) {
  Vector<T, kSize> vector;
  for (int i = 0; i < kSize; ++i) vector.part[i] = values[i];
  *reinterpret_cast<Vector<T, kSize>*>(to) = vector;
}

}  // namespace dhvt
