// Memory and parameters of the soft operators, for code with and without torch.
#pragma once

#include <new>

#include "any_image.h"
#include "soft_assign.h"

namespace dhvt {

// Uninitialised memory on a cache line, for one thread. It does not throw: code of the levels has no exceptions.
template <typename T>
class Scratch {
 public:
  DHVT_HD explicit Scratch(int64_t size)
      : data_(static_cast<T*>(::operator new(sizeof(T) * (size > 0 ? size : 1), kAlign, std::nothrow))) {
    if (!data_) __builtin_trap();
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  DHVT_HD ~Scratch() { ::operator delete(data_, kAlign); }
  DHVT_HD operator T*() const { return data_; }

 private:
  static constexpr std::align_val_t kAlign{64};
  T* data_;
};

}  // namespace dhvt
