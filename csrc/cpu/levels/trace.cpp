#include "trace.h"

#include "cpu/levels/trace_kernels.h"

namespace dhvt::DHVT_LEVEL {

void lattice_row(const int32_t* __restrict above, const int32_t* __restrict below, int64_t width,
                 uint8_t* __restrict flags) {
  flags[0] = lattice_point(-1, above[0], -1, below[0]);
  for (int64_t x = 1; x < width; ++x) flags[x] = lattice_point(above[x - 1], above[x], below[x - 1], below[x]);
  flags[width] = lattice_point(above[width - 1], -1, below[width - 1], -1);
}

}  // namespace dhvt::DHVT_LEVEL
