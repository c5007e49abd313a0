// Threads that the thread sanitizer sees, in place of torch's: OpenMP's runtime is not instrumented, so its barriers
// are unknown to the sanitizer and every hand-over between two loops would look like a race. Linked with -Bsymbolic
// into the build for that sanitizer alone, this definition wins over torch's. Tasks go round the threads one by one, so
// that neighbouring tasks, which share borders and cache lines, never run on the same thread.
#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

extern "C" AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t grain_size, ParallelFunc body,
                                             void* context) {
  const int64_t grain = std::max<int64_t>(grain_size, 1), tasks = (end - begin + grain - 1) / grain;
  const int64_t count = std::min<int64_t>(tasks, 4);
  std::vector<std::exception_ptr> errors(std::max<int64_t>(count, 0));
  std::vector<std::thread> threads;
  for (int64_t thread = 0; thread < count; ++thread)
    threads.emplace_back([=, &errors] {
      try {
        for (int64_t task = thread; task < tasks; task += count)
          body(begin + task * grain, std::min(begin + (task + 1) * grain, end), context);
      } catch (...) {
        errors[thread] = std::current_exception();
      }
    });
  for (std::thread& thread : threads) thread.join();
  return std::any_of(errors.begin(), errors.end(), [](const auto& error) { return error != nullptr; });
}
