// Looking labels up in a table: checks and outputs, shared by every device.
#pragma once

#include "common.h"

namespace dhvt {

// kernel(labels [B,H,W], table [B,K], out [B,H,W]), all dense.
template <typename Kernel>
Tensor relabel_checked(const Tensor& labels, const Tensor& table, const Kernel& kernel) {
  check(labels, "labels [B,H,W]", ScalarType::Int, {-1, -1, -1});
  check(table, "table [B,K]", ScalarType::Int, {labels.size(0), -1});
  Tensor out = empty({labels.size(0), labels.size(1), labels.size(2)}, ScalarType::Int, labels);
  kernel(dense(labels), dense(table), out);
  return out;
}

}  // namespace dhvt
