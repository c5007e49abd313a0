// Memory that the soft operators need for the time of a call.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <new>
#include <utility>

namespace dhvt {

// Uninitialised memory for a whole call. Each thread keeps the largest piece up to kKept for the next call: memory
// fresh from the system costs a page fault per 4 KiB. Larger pieces are mapped, so that they go back at once: freed,
// they would be holes in the heap that the next large output does not fit. Under the address sanitizer every piece is
// allocated for itself, so that it sees where each ends.
class Memory {
 public:
  explicit Memory(size_t size) {
    if (size <= kept().size_) {
      swap(kept());
    } else {
      data_ = allocate(size);
      size_ = size;
    }
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    if (kReuse && this != &kept() && size_ > kept().size_ && size_ <= kKept) swap(kept());
    if (kReuse && size_ > kKept)
      munmap(data_, size_);
    else
      ::operator delete(data_, kAlign);
  }
  void* get() const { return data_; }

 private:
  static constexpr std::align_val_t kAlign{64};
  static constexpr size_t kKept = size_t(8) << 20;
#ifdef __SANITIZE_ADDRESS__
  static constexpr bool kReuse = false;
#else
  static constexpr bool kReuse = true;
#endif

  Memory() = default;
  static Memory& kept() {
    thread_local Memory memory;
    return memory;
  }
  static void* allocate(size_t size) {
    if (!kReuse || size <= kKept) return ::operator new(size, kAlign);
    void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) throw std::bad_alloc();
    return data;
  }
  void swap(Memory& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  void* data_ = nullptr;
  size_t size_ = 0;
};

template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t size) : memory_(sizeof(T) * std::max<int64_t>(size, 1)) {}
  operator T*() const { return static_cast<T*>(memory_.get()); }

 private:
  Memory memory_;
};

}  // namespace dhvt
