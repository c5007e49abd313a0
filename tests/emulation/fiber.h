// A stack that can be left and entered again.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <functional>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulation {

class Fiber {
 public:
  Fiber() {
    stack_ = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack_ == MAP_FAILED) throw std::bad_alloc();
    mprotect(stack_, 4096, PROT_NONE);  // overflow shows
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber() { munmap(stack_, kStack); }

  // What the next resume() begins with.
  void start(std::function<void()> work) {
    work_ = std::move(work);
    if (started_) return;
    getcontext(&own_);
    own_.uc_stack.ss_sp = stack_;
    own_.uc_stack.ss_size = kStack;
    own_.uc_link = nullptr;
    makecontext(&own_, &Fiber::enter, 0);
    started_ = true;
  }

  // Runs it until it yields or its work is done.
  void resume() {
    running() = this;
    to_fiber();
    running() = nullptr;
  }

  static void yield() { running()->to_caller(); }

 private:
  static constexpr size_t kStack = size_t(256) << 10;

  static Fiber*& running() {
    static Fiber* fiber = nullptr;
    return fiber;
  }

  // Work after work on the same stack.
  static void enter() {
    arrive(nullptr);
    for (;;) {
      Fiber* me = running();
      me->work_();
      me->to_caller();
    }
  }

  void to_fiber() {
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, stack_, kStack);
#else
    void* fake = nullptr;
#endif
    swapcontext(&caller_, &own_);
    arrive(fake);
  }
  void to_caller() {
    void* fake = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fake, caller_stack_, caller_size_);
#endif
    swapcontext(&own_, &caller_);
    arrive(fake);
  }
  static void arrive(void* fake) {
#if defined(__SANITIZE_ADDRESS__)
    const void* stack;
    size_t size;
    __sanitizer_finish_switch_fiber(fake, &stack, &size);
    if (Fiber* me = running(); me && stack != me->stack_) me->caller_stack_ = stack, me->caller_size_ = size;
#else
    (void)fake;
#endif
  }

  void* stack_;
  bool started_ = false;
  ucontext_t own_, caller_;
  std::function<void()> work_;
  const void* caller_stack_ = nullptr;
  size_t caller_size_ = 0;
};

}  // namespace emulation
