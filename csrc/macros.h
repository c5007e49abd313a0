// What lets one header serve g++ and nvcc: the shared mathematics is marked DHVT_HD.
#pragma once

#ifdef __CUDACC__
#define DHVT_HD __host__ __device__ __forceinline__
#else
#define DHVT_HD inline
#endif

// Hot CPU loops are compiled for AVX-512, AVX2 and baseline x86-64; the loader picks.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__) && !defined(__SANITIZE_THREAD__)
#define DHVT_CLONES __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define DHVT_CLONES
#endif
