// What the lanes of a warp do together. All lanes take part, in every call.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "macros.h"

namespace dhvt {

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ int lane() { return int(threadIdx.x % 32); }

// Whether this lane is the first of a set.
__device__ __forceinline__ bool leads(unsigned set) { return lane() == __ffs(int(set)) - 1; }

// The sum over all lanes, in every lane; always in the same order.
template <typename T>
__device__ __forceinline__ T warp_sum(T v) {
  for (int bits = 16; bits > 0; bits /= 2) v += __shfl_xor_sync(kAllLanes, v, bits);
  return v;
}

// The sum over this lane and those before it.
__device__ __forceinline__ int warp_scan(int v) {
  for (int back = 1; back < 32; back *= 2) {
    const int before = __shfl_up_sync(kAllLanes, v, back);
    if (lane() >= back) v += before;
  }
  return v;
}

__device__ __forceinline__ unsigned lanes_below() { return (1u << lane()) - 1; }

// A place for each lane that wants one, the next ones of a counter.
__device__ __forceinline__ int32_t append(int32_t* counter, bool wants) {
  const unsigned set = __ballot_sync(kAllLanes, wants);
  if (set == 0) return 0;
  int32_t first = 0;
  if (leads(set)) first = atomicAdd(counter, int32_t(__popc(set)));
  return __shfl_sync(kAllLanes, first, __ffs(int(set)) - 1) + __popc(set & lanes_below());
}

DHVT_HD int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

}  // namespace dhvt
