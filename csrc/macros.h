// What lets one header serve g++ and nvcc: the shared mathematics is marked DHVT_HD. Always inlined, because only
// inlined code is compiled for the instruction set of the clone that calls it (see DHVT_CLONES).
#pragma once

#ifdef __CUDACC__
#define DHVT_HD __host__ __device__ __forceinline__
#else
#define DHVT_HD inline __attribute__((always_inline))
#endif

// Hot CPU loops are compiled for AVX-512, AVX2 and baseline x86-64; the loader picks by what the processor has (an arch
// of a model name would ask for that very model). Sanitizers do not stand the loader's early call.
#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) && !defined(__CUDACC__) && \
    !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#define DHVT_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define DHVT_CLONES
#endif
