// Union-find that many threads work on at once. A root has the lowest index of its set, so the result does not depend
// on their order. Parents lie in global or shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace dhvt {

// The root of i as of now. Paths become shorter on the way: another thread's store to the same place is an ancestor,
// too, and a root is never written this way.
__device__ __forceinline__ int32_t root_of(int32_t* parents, int32_t i) {
  volatile int32_t* parent = parents;
  for (int32_t up = parent[i]; up != i;) {
    const int32_t next = parent[up];
    if (next != up) parent[i] = next;
    i = up;
    up = next;
  }
  return i;
}

// The same once nothing is joined any more, without writing: while others put final roots in the place of parents, a
// path must not be shortened to what was an ancestor.
__device__ __forceinline__ int32_t final_root_of(const int32_t* parents, int32_t i) {
  const volatile int32_t* parent = parents;
  for (int32_t up = parent[i]; up != i; up = parent[i]) i = up;
  return i;
}

// Links the higher of two roots to the lower one; begins again from what was there if it was no root any more.
__device__ __forceinline__ void join_sets(int32_t* parents, int32_t a, int32_t b) {
  a = root_of(parents, a);
  b = root_of(parents, b);
  while (a != b) {
    const int32_t high = a > b ? a : b, low = a > b ? b : a;
    const int32_t before = atomicMin(&parents[high], low);
    a = before == high ? low : before;
    b = low;
  }
}

}  // namespace dhvt
