// Looking labels up in a table, one task per piece of an image: 4 bytes per pixel in, 4 out.
#include "relabel_host.h"

#include <algorithm>

#include "cpu/levels/relabel_kernels.h"

namespace dhvt {
namespace {

Tensor relabel(const Tensor& labels, const Tensor& table) {
  return relabel_checked(labels, table, [](const Tensor& labels, const Tensor& table, const Tensor& out) {
    const int64_t pixels = labels.size(1) * labels.size(2), size = table.size(1);
    constexpr int64_t kPiece = 16384;
    const int64_t pieces = (pixels + kPiece - 1) / kPiece;
    const auto relabel_pixels = DHVT_AT_LEVEL(relabel_pixels);
    parallel(labels.size(0) * pieces, [&](int64_t task) {
      const int64_t b = task / pieces, begin = task % pieces * kPiece;
      relabel_pixels(data<int32_t>(labels) + b * pixels + begin, std::min(kPiece, pixels - begin),
                     data<int32_t>(table) + b * size, size, mutable_data<int32_t>(out) + b * pixels + begin);
    });
  });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("relabel", TORCH_BOX(&dhvt::relabel)); }
