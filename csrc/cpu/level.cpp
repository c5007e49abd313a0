#include "level.h"

#include <atomic>

namespace dhvt {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Level best_level() {
#ifdef __x86_64__
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) return Level::avx512;
  if (avx2) return Level::avx2;
#endif
  return Level::baseline;
}

std::atomic<Level>& in_force() {
  static std::atomic<Level> level{best_level()};
  return level;
}

}  // namespace

Level level() { return in_force().load(std::memory_order_relaxed); }

}  // namespace dhvt

// For Python, by ctypes: the names of level 0, 1, ... as far as the machine has them, else null.
extern "C" __attribute__((visibility("default"))) const char* dhvt_level_name(int level) {
  return level >= 0 && level <= int(dhvt::best_level()) ? dhvt::kNames[level] : nullptr;
}

extern "C" __attribute__((visibility("default"))) int dhvt_level() { return int(dhvt::level()); }

// The level must be one that the machine has.
extern "C" __attribute__((visibility("default"))) void dhvt_use_level(int level) {
  if (dhvt_level_name(level)) dhvt::in_force() = dhvt::Level(level);
}
