// Looking labels up in a table, one task per piece of an image: 4 bytes per pixel in, 4 out.
#include <algorithm>

#include "common.h"
#include "cpu/levels/relabel_kernels.h"

namespace dhvt {
namespace {

Tensor relabel(const Tensor& labels, const Tensor& table) {
  check(labels, "labels [B,H,W]", ScalarType::Int, {-1, -1, -1});
  check(table, "table [B,K]", ScalarType::Int, {labels.size(0), -1});
  const Tensor labels_ = dense(labels), table_ = dense(table);
  const int64_t batch = labels.size(0), pixels = labels.size(1) * labels.size(2), size = table.size(1);
  Tensor out = empty({batch, labels.size(1), labels.size(2)}, ScalarType::Int, labels);
  constexpr int64_t kPiece = 16384;
  const int64_t pieces = (pixels + kPiece - 1) / kPiece;
  const auto relabel_pixels = DHVT_AT_LEVEL(relabel_pixels);
  parallel(batch * pieces, [&](int64_t task) {
    const int64_t b = task / pieces, begin = task % pieces * kPiece;
    relabel_pixels(data<int32_t>(labels_) + b * pixels + begin, std::min(kPiece, pixels - begin),
                   data<int32_t>(table_) + b * size, size, mutable_data<int32_t>(out) + b * pixels + begin);
  });
  return out;
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("relabel", TORCH_BOX(&dhvt::relabel)); }
