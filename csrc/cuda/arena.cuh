// The scratch of a block, laid out once for host and device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "macros.h"

namespace dhvt {

// Hands out arrays in shared memory while there is room, then in a workspace in global memory: ask for the hottest
// first. A copy goes on from where the original stands, so what two copies hand out lies in one place. The host lays
// out the same arrays, at no address, to learn what the workspace must hold.
class Arena {
 public:
  DHVT_HD Arena(void* shared, size_t shared_bytes, void* global)
      : shared_(reinterpret_cast<uintptr_t>(shared)),
        room_(shared_bytes),
        global_(reinterpret_cast<uintptr_t>(global)) {}

  template <typename T>
  DHVT_HD T* take(int64_t n) {
    const size_t bytes = (size_t(n) * sizeof(T) + 15) / 16 * 16;
    if (bytes > room_) return take_global<T>(n);
    room_ -= bytes;
    return reinterpret_cast<T*>(std::exchange(shared_, shared_ + bytes));
  }

  template <typename T>
  DHVT_HD T* take_global(int64_t n) {
    const uintptr_t out = global_ + global_bytes_;
    global_bytes_ += (size_t(n) * sizeof(T) + 15) / 16 * 16;
    return reinterpret_cast<T*>(out);
  }

  // Shared memory that is left; what was taken from the workspace.
  DHVT_HD size_t room() const { return room_; }
  DHVT_HD size_t global_bytes() const { return global_bytes_; }

 private:
  uintptr_t shared_;
  size_t room_;
  uintptr_t global_;
  size_t global_bytes_ = 0;
};

}  // namespace dhvt
