// Images whose dtype is known at run time only.
#pragma once

#include "cuda/launch.cuh"

namespace dhvt {

// An image of any dtype that accumulates in `acc`: where kernels read and write it, and nowhere else, they distinguish
// dtypes, so that they are compiled once for three.
template <typename acc>
struct AnyImage {
  void* data;
  int type;  // 0: acc, 1: float16, 2: bfloat16
  int64_t batch_stride, channel_stride, row_stride, column_stride;

  // body(pointer to const scalars).
  template <typename Body>
  __device__ __forceinline__ void visit(const Body& body) const {
    if constexpr (std::is_same_v<acc, float>) {
      if (type == 1) return body(static_cast<const Half*>(data));
      if (type == 2) return body(static_cast<const BFloat16*>(data));
    }
    body(static_cast<const acc*>(data));
  }
  __device__ __forceinline__ int64_t at(int64_t b, int64_t y, int64_t x) const {
    return b * batch_stride + y * row_stride + x * column_stride;
  }
  __device__ __forceinline__ acc load(int64_t i) const {
    acc out;
    visit([&](const auto* from) { out = static_cast<acc>(from[i]); });
    return out;
  }
  __device__ __forceinline__ void store(int64_t i, acc value) const {
    visit([&](const auto* to) {
      using scalar_t = std::remove_cvref_t<decltype(*to)>;
      static_cast<scalar_t*>(data)[i] = static_cast<scalar_t>(value);
    });
  }
};

template <typename acc>
AnyImage<acc> any_image(const Tensor& t) {
  const ScalarType type = t.scalar_type();
  return {const_cast<void*>(t.const_data_ptr()),
          type == ScalarType::Half       ? 1
          : type == ScalarType::BFloat16 ? 2
                                         : 0,
          t.stride(0),
          t.stride(1),
          t.stride(2),
          t.stride(3)};
}

}  // namespace dhvt
