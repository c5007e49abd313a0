// The one place that knows devices, streams and launches. Every CUDA source includes it, and compiles in two ways: by
// nvcc for the device, and by g++ against tests/emulation/cuda_runtime.h, which runs the kernels on the CPU.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <utility>

#include "common.h"
#include "cuda/device.h"

#ifdef __CUDACC__
// DHVT_CUDA_OPERATORS(m) { m.impl(...); }
#define DHVT_CUDA_OPERATORS(m) STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CUDA, m)
#else
#define DHVT_CUDA_OPERATORS(m) STABLE_TORCH_LIBRARY_IMPL(dhvt_emulated, CPU, m)
#endif

namespace dhvt {

// Threads of a block, unless a kernel has reasons for another number.
constexpr int kThreads = 256;

// The block's dynamic shared memory, from a multiple of 16 bytes on.
template <typename T>
__device__ __forceinline__ T* shared_memory() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char dhvt_shared[];
  return reinterpret_cast<T*>(dhvt_shared);
#else
  return static_cast<T*>(emulation::shared_bytes());
#endif
}

// Asks for what is at an address, for somebody who reads it later: from the second-level cache, then.
__device__ __forceinline__ void prefetch([[maybe_unused]] const void* address) {
#ifdef __CUDACC__
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#endif
}

// Launches on the current stream of a tensor's device. Host functions make one before they allocate or launch.
class Launcher {
 public:
  explicit Launcher(const Tensor& on) : device_(on) {}

  // kernel<<<blocks, threads, shared bytes>>>(arguments...), checked. Nothing to do where there are no blocks.
  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), dim3 blocks, dim3 threads, size_t shared,
                  Arguments&&... arguments) const {
    if (uint64_t(blocks.x) * blocks.y * blocks.z == 0) return;
#ifdef __CUDACC__
    device_.allow_shared(reinterpret_cast<const void*>(kernel), shared);
    kernel<<<blocks, threads, shared, static_cast<cudaStream_t>(device_.stream())>>>(
        std::forward<Arguments>(arguments)...);
    device_.check_launch();
#else
    emulation::launch({blocks.x, blocks.y, blocks.z}, {threads.x, threads.y, threads.z}, shared, false,
                      [&] { kernel(arguments...); });
#endif
  }

  // The most shared memory that a block of this device may ask for. Emulated: that of the smallest device.
  size_t most_shared() const {
#ifdef __CUDACC__
    return device_.most_shared();
#else
    return size_t(99) << 10;
#endif
  }

  // The same for a kernel whose blocks wait for each other (sync_grid): no more of them than `resident`.
  template <typename... Parameters, typename... Arguments>
  void cooperative(void (*kernel)(Parameters...), dim3 blocks, dim3 threads, size_t shared,
                   const Arguments&... arguments) const {
    if (uint64_t(blocks.x) * blocks.y * blocks.z == 0) return;
#ifdef __CUDACC__
    device_.allow_shared(reinterpret_cast<const void*>(kernel), shared);
    const std::tuple<Parameters...> values(arguments...);
    void* pointers[sizeof...(Parameters)];
    std::apply(
        [&](const auto&... value) {
          int i = 0;
          ((pointers[i++] = const_cast<void*>(static_cast<const void*>(&value))), ...);
        },
        values);
    cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel), blocks, threads, pointers, shared,
                                static_cast<cudaStream_t>(device_.stream()));
    device_.check_launch();
#else
    emulation::launch({blocks.x, blocks.y, blocks.z}, {threads.x, threads.y, threads.z}, shared, true,
                      [&] { kernel(arguments...); });
#endif
  }

  // Bytes of the device's L2 cache. Emulated: so few that tests take several groups.
  int64_t cache() const {
#ifdef __CUDACC__
    return device_.cache();
#else
    return 8 << 10;
#endif
  }

  // How many blocks of a kernel the device runs side by side.
  template <typename... Parameters>
  int64_t resident(void (*kernel)(Parameters...), int threads, size_t shared) const {
#ifdef __CUDACC__
    return device_.resident(reinterpret_cast<const void*>(kernel), threads, shared);
#else
    return emulation::kResidentBlocks;
#endif
  }

 private:
  DeviceScope device_;
};

// So many blocks, or as many as is reasonable: kernels loop over what is left.
inline dim3 blocks_for(int64_t tasks) { return dim3(unsigned(std::min(tasks, int64_t(1) << 20))); }

// body(i) for each i of [0, n): what has one independent task per element. One thread each, in a loop where there are
// more elements than a grid of reasonable size has threads.
template <typename Body>
__global__ void __launch_bounds__(kThreads) for_each_kernel(int64_t n, Body body) {
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride) body(i);
}

template <typename Body>
void for_each(const Launcher& launch, int64_t n, const Body& body) {
  launch(for_each_kernel<Body>, blocks_for((n + kThreads - 1) / kThreads), dim3(kThreads), 0, n, body);
}

// body(b, y, x) for each pixel of a batch; a warp takes 32 neighbours of a row, a block 8 rows unless there is only
// one.
template <typename Body>
__global__ void __launch_bounds__(kThreads)
    for_each_pixel_kernel(int64_t batch, int64_t height, int64_t width, Body body) {
  const int64_t rows = int64_t(gridDim.y) * blockDim.y, columns = int64_t(gridDim.x) * blockDim.x;
  for (int64_t b = blockIdx.z; b < batch; b += gridDim.z)
    for (int64_t y = int64_t(blockIdx.y) * blockDim.y + threadIdx.y; y < height; y += rows)
      for (int64_t x = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; x < width; x += columns) body(b, y, x);
}

template <typename Body>
void for_each_pixel(const Launcher& launch, int64_t batch, int64_t height, int64_t width, const Body& body) {
  constexpr int64_t kMost = 65535;
  const int64_t rows = height > 1 ? kThreads / 32 : 1, columns = kThreads / rows;
  const dim3 blocks(blocks_for((width + columns - 1) / columns).x,
                    unsigned(std::min((height + rows - 1) / rows, kMost)), unsigned(std::min(batch, kMost)));
  launch(for_each_pixel_kernel<Body>, blocks, dim3(unsigned(columns), unsigned(rows)), 0, batch, height, width, body);
}

}  // namespace dhvt
