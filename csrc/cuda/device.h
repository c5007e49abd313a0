// A device and its current stream, without linking libtorch_cuda.
#pragma once

#include <cstddef>

#include "common.h"

namespace dhvt {

// Makes the device of a tensor the current one for its lifetime, and knows torch's current stream there.
class DeviceScope {
 public:
#ifdef __CUDACC__
  explicit DeviceScope(const Tensor& on);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

  void* stream() const { return stream_; }

  // Lets a kernel have more shared memory than every kernel may have.
  void allow_shared(const void* kernel, size_t bytes) const;

  // The most shared memory that a block may ask for.
  size_t most_shared() const;

  // Bytes of the L2 cache.
  int64_t cache() const;

  // Blocks of a kernel that run side by side, all of them cooperatively; asked for once.
  int64_t resident(const void* kernel, int threads, size_t shared) const;

  // Throws what went wrong with the launch before.
  void check_launch() const;

 private:
  int device_, before_;
  void* stream_;
#else
  explicit DeviceScope(const Tensor&) {}
#endif
};

}  // namespace dhvt
