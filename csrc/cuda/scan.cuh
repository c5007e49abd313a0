// Prefix sums over the threads of a block.
#pragma once

#include "cuda/warp.cuh"

namespace dhvt {

// The sum of v over the threads before this one, in thread order; `total` becomes that over all. scratch [33] in shared
// memory, free to be written. All threads of a block of whole warps, 1024 at most, take part.
__device__ __forceinline__ int32_t block_prefix(int32_t v, int32_t* scratch, int32_t& total) {
  const int warp = int(threadIdx.x / 32), warps = int(blockDim.x / 32);
  const int32_t sum = warp_scan(v);
  if (lane() == 31) scratch[warp] = sum;
  __syncthreads();
  if (warp == 0) {
    const int32_t of_warp = lane() < warps ? scratch[lane()] : 0;
    const int32_t upto = warp_scan(of_warp);
    scratch[lane()] = upto - of_warp;
    if (lane() == 31) scratch[32] = upto;
  }
  __syncthreads();
  total = scratch[32];
  const int32_t before = scratch[warp] + sum - v;
  __syncthreads();
  return before;
}

}  // namespace dhvt
