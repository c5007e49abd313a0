// Images whose dtype is known at run time only, for code with and without torch.
#pragma once

#include "image.h"

namespace dhvt {

// A [B,C,H,W] tensor where it lies, of any dtype that accumulates in `acc`: where pixels are read and written, and
// nowhere else, dtypes are distinguished, so that code is compiled once for three.
template <typename acc>
struct AnyImage {
  void* data;
  int type;  // 0: acc, 1: float16, 2: bfloat16
  int64_t batch_stride, channel_stride, row_stride, column_stride;

  // body(pointer to scalars).
  template <typename Body>
  DHVT_HD void visit(const Body& body) const {
    if constexpr (std::is_same_v<acc, float>) {
      if (type == 1) return body(static_cast<Half*>(data));
      if (type == 2) return body(static_cast<BFloat16*>(data));
    }
    body(static_cast<acc*>(data));
  }
  DHVT_HD int64_t at(int64_t b, int64_t y, int64_t x) const {
    return b * batch_stride + y * row_stride + x * column_stride;
  }
  DHVT_HD acc load(int64_t i) const {
    acc out;
    visit([&](const auto* from) { out = static_cast<acc>(from[i]); });
    return out;
  }
  DHVT_HD void store(int64_t i, acc value) const {
    visit([&](auto* to) { to[i] = static_cast<std::remove_reference_t<decltype(*to)>>(value); });
  }
};

}  // namespace dhvt
