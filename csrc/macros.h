// What lets one header serve g++ and nvcc: the shared mathematics is marked DHVT_HD. Always inlined, because only
// inlined code is compiled for the instruction set of its caller (see cpu/level.h).
#pragma once

#ifdef __CUDACC__
#define DHVT_HD __host__ __device__ __forceinline__
#else
#define DHVT_HD inline __attribute__((always_inline))
#endif
