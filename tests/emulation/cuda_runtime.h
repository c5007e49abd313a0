// Stands in for the CUDA toolkit's header of this name, so that g++ compiles csrc/cuda and the CPU runs it: the test
// backend "cuda-emulated" (docs/emulation.md). Only what the kernels use; anything else is an error to compile, such as
// __shared__: shared memory is taken from dhvt::shared_memory, which this knows how to guard.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "emulation.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define threadIdx (emulation::self().thread)
#define blockIdx (emulation::self().block->index)
#define blockDim (emulation::self().block->grid->threads)
#define gridDim (emulation::self().block->grid->blocks)
constexpr int warpSize = 32;

inline void __syncthreads() { emulation::sync_block(); }
inline int __syncthreads_or(int p) { return emulation::vote_block(p != 0) != 0; }
inline int __syncthreads_count(int p) { return emulation::vote_block(p != 0); }
inline void __syncwarp(unsigned mask = ~0u) { emulation::exchange(mask, 0); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <typename T>
T __shfl_sync(unsigned mask, T v, int lane, int width = 32) {
  const int own = emulation::lane();
  return emulation::exchange(mask, v).from((own & ~(width - 1)) | (lane & (width - 1)), v);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32) {
  const int own = emulation::lane(), source = own - int(delta);
  return emulation::exchange(mask, v).from(source < (own & ~(width - 1)) ? own : source, v);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32) {
  const int own = emulation::lane(), source = own + int(delta);
  return emulation::exchange(mask, v).from(source > (own | (width - 1)) ? own : source, v);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32) {
  const int own = emulation::lane(), source = own ^ bits;
  return emulation::exchange(mask, v).from(source > (own | (width - 1)) ? own : source, v);
}
inline unsigned __ballot_sync(unsigned mask, int p) {
  const auto votes = emulation::exchange(mask, int(p != 0));
  unsigned out = 0;
  for (int l = 0; l < 32; ++l)
    if (mask >> l & 1) out |= unsigned(votes.from(l, 0)) << l;
  return out;
}
inline int __any_sync(unsigned mask, int p) { return __ballot_sync(mask, p) != 0; }
inline int __all_sync(unsigned mask, int p) { return __ballot_sync(mask, p) == mask; }
template <typename T>
unsigned __match_any_sync(unsigned mask, T v) {
  const auto values = emulation::exchange(mask, v);
  unsigned out = 0;
  for (int l = 0; l < 32; ++l)
    if (mask >> l & 1 && values.from(l, v) == v) out |= 1u << l;
  return out;
}

// One thread runs at a time, from one barrier to the next, so an atomic operation is a plain one.
template <typename T, typename Change>
T emulated_atomic(T* p, const Change& change) {
  const T before = *p;
  *p = change(before);
  return before;
}
template <typename T>
T atomicAdd(T* p, T v) {
  return emulated_atomic(p, [=](T x) { return T(x + v); });
}
template <typename T>
T atomicMin(T* p, T v) {
  return emulated_atomic(p, [=](T x) { return std::min(x, v); });
}
template <typename T>
T atomicMax(T* p, T v) {
  return emulated_atomic(p, [=](T x) { return std::max(x, v); });
}
template <typename T>
T atomicOr(T* p, T v) {
  return emulated_atomic(p, [=](T x) { return T(x | v); });
}
template <typename T>
T atomicExch(T* p, T v) {
  return emulated_atomic(p, [=](T) { return v; });
}
template <typename T>
T atomicCAS(T* p, T expected, T v) {
  return emulated_atomic(p, [=](T x) { return x == expected ? v : x; });
}

using std::max;
using std::min;
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return uint32_t(uint64_t(a) * b >> 32); }
inline unsigned __brev(unsigned v) {
  unsigned out = 0;
  for (int i = 0; i < 32; ++i) out |= (v >> i & 1) << (31 - i);
  return out;
}
inline float __int_as_float(int v) {
  float f;
  std::memcpy(&f, &v, 4);
  return f;
}
inline int __float_as_int(float v) {
  int i;
  std::memcpy(&i, &v, 4);
  return i;
}
template <typename T>
T __ldg(const T* p) {
  return *p;
}
template <typename T>
T __ldcg(const T* p) {
  return *p;
}
// Each operation rounded, as in sources that are compiled without contraction.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
