// What lets one header serve g++ and nvcc: the shared mathematics is marked DHVT_HD.
#pragma once

#ifdef __CUDACC__
#define DHVT_HD __host__ __device__ __forceinline__
#else
#define DHVT_HD inline
#endif
