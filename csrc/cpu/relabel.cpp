// Looking labels up in tables, one task per piece of an image: 4 bytes per pixel in, from memory once, and 4 out.
#include "relabel_host.h"

#include <algorithm>

#include "cpu/levels/relabel_kernels.h"

namespace dhvt {
namespace {

Tensor relabel(const Tensor& labels, const Tensor& table) {
  return relabel_checked(labels, table, [](const RelabelTask& t) {
    constexpr int64_t kPiece = 16384;
    const int64_t pieces = (t.pixels + kPiece - 1) / kPiece;
    const auto relabel_pixels = DHVT_AT_LEVEL(relabel_pixels);
    parallel(t.batch * pieces, [&](int64_t task) {
      const int64_t b = task / pieces, begin = task % pieces * kPiece;
      for (int64_t n = 0; n < t.tables; ++n) {
        const int64_t at = n * t.batch + b;
        relabel_pixels(t.labels + b * t.pixels + begin, std::min(kPiece, t.pixels - begin), t.table + at * t.size,
                       t.size, t.out + at * t.pixels + begin);
      }
    });
  });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("relabel", TORCH_BOX(&dhvt::relabel)); }
