// What the threads of a block do together: blocks of one dimension and whole warps, all threads in every call.
#pragma once

#include "cuda/warp.cuh"

namespace dhvt {

// body(i) for each i of [0, n), neighbouring threads for neighbouring i.
template <typename Body>
__device__ __forceinline__ void each(int64_t n, const Body& body) {
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) body(i);
}

// The same for whole warps: i may be n or more.
template <typename Body>
__device__ __forceinline__ void each_warp(int64_t n, const Body& body) {
  each(round_up(n, 32), body);
}

// One step of sort_block: puts in order what lies `stride` apart in spans of twice that, or in the same spans what lies
// equally far from their two ends. 32 neighbouring comparisons at a stride of at most 32 are a warp's own 64 keys, so
// most steps need no barrier of the block: `next` is the stride of the step that follows.
template <typename Key, typename Less>
__device__ __forceinline__ void sort_step(Key* keys, int64_t size, int64_t stride, bool from_ends, int64_t next,
                                          const Less& less) {
  for (int64_t t = threadIdx.x; t < round_up(size, 2 * stride) / 2; t += blockDim.x) {
    const int64_t i = 2 * t - (t & (stride - 1));
    const int64_t j = from_ends ? i + 2 * stride - 1 - 2 * (i & (stride - 1)) : i + stride;
    if (j >= size) continue;
    const Key a = keys[i], b = keys[j];
    if (less(b, a)) {
      keys[i] = b;
      keys[j] = a;
    }
  }
  if (stride > 32 || next > 32)
    __syncthreads();
  else
    __syncwarp();
}

// Sorts keys [size] (Batcher's bitonic network, in the form whose comparisons all put the lesser key first: so keys
// that are not there, up to a power of two, count as the greatest and stay where they are).
template <typename Key, typename Less>
__device__ void sort_block(Key* keys, int64_t size, const Less& less) {
  for (int64_t half = 1; half < size; half *= 2)
    for (int64_t stride = half; stride > 0; stride /= 2)
      sort_step(keys, size, stride, stride == half, stride > 1 ? stride / 2 : 2 * half, less);
  __syncthreads();
}

}  // namespace dhvt
