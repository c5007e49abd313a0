// Barriers of the whole grid. Apart from launch.cuh because nvcc takes seconds to read cooperative groups.
#pragma once

#ifdef __CUDACC__
#include <cooperative_groups.h>
#endif

#include "cuda/launch.cuh"

namespace dhvt {

// A barrier for all blocks of a cooperative launch; what they wrote before it is there for all after it.
__device__ __forceinline__ void sync_grid() {
#ifdef __CUDACC__
  cooperative_groups::this_grid().sync();
#else
  emulation::sync_grid();
#endif
}

}  // namespace dhvt
