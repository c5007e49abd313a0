// Instruction-set levels. Sources in csrc/cpu/levels/ are compiled once per level, into the namespace of the level;
// the rest of the library is baseline code, which calls the level in force through DHVT_AT_LEVEL.
//
// Rules for sources in levels/: no torch, no containers, everything but the declared functions in an anonymous
// namespace or always inlined. A template or inline function that is emitted out of line would be one function in all
// levels, and the linker keeps only one of them (the baseline's, which is first: right everywhere, but slow).
#pragma once

namespace dhvt {

enum class Level { baseline, avx2, avx512 };

// The level in force: the best that the machine has, unless dhvt_use_level chose another.
Level level();

// DHVT_PER_LEVEL(declaration) declares a function in every level; DHVT_AT_LEVEL(name) is the one of the level in force.
#ifdef __x86_64__
#define DHVT_PER_LEVEL(...) \
  namespace baseline {      \
  __VA_ARGS__               \
  }                         \
  namespace avx2 {          \
  __VA_ARGS__               \
  }                         \
  namespace avx512 {        \
  __VA_ARGS__               \
  }
template <typename Function>
Function* at_level(Function* baseline, Function* avx2, Function* avx512) {
  return level() == Level::avx512 ? avx512 : level() == Level::avx2 ? avx2 : baseline;
}
#define DHVT_AT_LEVEL(...) ::dhvt::at_level(&baseline::__VA_ARGS__, &avx2::__VA_ARGS__, &avx512::__VA_ARGS__)
#else
#define DHVT_PER_LEVEL(...) \
  namespace baseline {      \
  __VA_ARGS__               \
  }
#define DHVT_AT_LEVEL(...) (&baseline::__VA_ARGS__)
#endif

}  // namespace dhvt
