// Kernels with faults, for tests/test_emulation.py: faults NAME launches one of them three times and prints its
// results.
#include <cstdio>
#include <string>

#include "cuda_runtime.h"

namespace {

constexpr int kSize = 64;
float out[kSize];

// Each thread gives its number to its mirror image.
void mirror(bool barrier) {
  float* shared = static_cast<float*>(emulation::shared_bytes());
  const int i = int(threadIdx.x);
  shared[i] = float(i);
  if (barrier) __syncthreads();
  out[i] = shared[kSize - 1 - i];
}

void sums() {  // of a warp, by shuffles; the lanes of the second warp
  float v = float(threadIdx.x);
  for (int bits = 16; bits > 0; bits /= 2) v += __shfl_xor_sync(~0u, v, bits);
  const unsigned odd = __ballot_sync(~0u, threadIdx.x % 2), same = __match_any_sync(~0u, int(threadIdx.x) / 8);
  out[threadIdx.x] = v + float(__popc(odd)) + float(__popc(same)) + float(__syncthreads_count(threadIdx.x < 10));
}

void left_alone() {
  if (threadIdx.x % 2 == 0) __syncwarp();
}

void outside_the_mask() {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 20);
}

void past_the_end() { out[threadIdx.x] = static_cast<float*>(emulation::shared_bytes())[threadIdx.x + 1]; }

void never_written() { out[threadIdx.x] = static_cast<float*>(emulation::shared_bytes())[threadIdx.x]; }

void atomics() { atomicAdd(out + threadIdx.x % 4, 1.0f); }

}  // namespace

int main(int, char** arguments) {
  const std::string name = arguments[1];
  for (int i = 0; i < 3; ++i) {
    std::fill(out, out + kSize, 0.0f);
    emulation::launch({1, 1, 1}, {kSize, 1, 1}, kSize * sizeof(float), false, [&] {
      if (name == "mirror") mirror(true);
      if (name == "no_barrier") mirror(false);
      if (name == "sums") sums();
      if (name == "left_alone") left_alone();
      if (name == "outside_the_mask") outside_the_mask();
      if (name == "past_the_end") past_the_end();
      if (name == "never_written") never_written();
      if (name == "atomics") atomics();
    });
    for (float v : out) std::printf("%g ", v);
    std::printf("\n");
  }
}
