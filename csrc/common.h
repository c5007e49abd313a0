// Checks, dtype dispatch, accumulation types and strided views, on the LibTorch stable ABI (stable headers only).
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "any_image.h"

namespace dhvt {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
struct TypeTag {
  using type = T;
};

inline ScalarType acc_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Calls body(TypeTag<scalar_t>{}) for the four floating types.
template <typename Body>
void dispatch_floating(ScalarType type, const char* name, Body&& body) {
  switch (type) {
    case ScalarType::Float:
      return body(TypeTag<float>{});
    case ScalarType::Double:
      return body(TypeTag<double>{});
    case ScalarType::Half:
      return body(TypeTag<Half>{});
    case ScalarType::BFloat16:
      return body(TypeTag<BFloat16>{});
    default:
      STD_TORCH_CHECK(false, name, ": expected a floating point dtype");
  }
}

// Calls body(TypeTag<acc>{}) for the accumulation type of any of the four: for code that reads AnyImage.
template <typename Body>
void dispatch_any_floating(ScalarType type, const char* name, const Body& body) {
  dispatch_floating(type, name, [&](auto tag) { body(TypeTag<acc_t<typename decltype(tag)::type>>{}); });
}

// Calls body(TypeTag<acc>{}) for the two accumulation types.
template <typename Body>
void dispatch_accumulation(ScalarType type, const char* name, Body&& body) {
  if (type == ScalarType::Float) return body(TypeTag<float>{});
  if (type == ScalarType::Double) return body(TypeTag<double>{});
  STD_TORCH_CHECK(false, name, ": expected float32 or float64");
}

inline Tensor empty(std::initializer_list<int64_t> size, ScalarType type, const Tensor& like) {
  return torch::stable::empty({size.begin(), size.size()}, type, std::nullopt, like.device());
}

inline Tensor zeros(std::initializer_list<int64_t> size, ScalarType type, const Tensor& like) {
  Tensor out = empty(size, type, like);
  return torch::stable::zero_(out);
}

// Whether a [B,C,H,W] tensor is dense in channels_last order, and not contiguous as well.
inline bool is_channels_last(const Tensor& t) {
  if (t.is_contiguous()) return false;
  int64_t stride = 1;
  for (int64_t d : {1, 3, 2, 0}) {
    if (t.size(d) != 1 && t.stride(d) != stride) return false;
    stride *= t.size(d);
  }
  return true;
}

inline Tensor empty_image(std::initializer_list<int64_t> size, ScalarType type, bool channels_last,
                          const Tensor& like) {
  using torch::headeronly::MemoryFormat;
  return torch::stable::empty({size.begin(), size.size()}, type, std::nullopt, like.device(), std::nullopt,
                              channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

// A tensor of the size of `like`: channels_last where `like` is, else contiguous.
inline Tensor empty_image_like(const Tensor& like, ScalarType type) {
  return empty_image({like.size(0), like.size(1), like.size(2), like.size(3)}, type, is_channels_last(like), like);
}

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
const T* data(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? data<T>(*tensor) : nullptr;
}

template <typename T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline std::optional<Tensor> dense(const std::optional<Tensor>& tensor) {
  if (!tensor.has_value()) return std::nullopt;
  return dense(*tensor);
}

// The tensor in another dtype, dense; itself when it is both already. For small tensors: tokens and weights.
inline Tensor converted(const Tensor& tensor, ScalarType type) {
  return dense(tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type));
}

inline std::optional<Tensor> converted(const std::optional<Tensor>& tensor, ScalarType type) {
  if (!tensor.has_value()) return std::nullopt;
  return converted(*tensor, type);
}

// The public functions validate with readable messages; this keeps a direct call of an operator from reading out of
// bounds. A negative size is any size.
inline void check(const Tensor& tensor, const char* name, ScalarType type, std::initializer_list<int64_t> size) {
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, ": unexpected dtype");
  STD_TORCH_CHECK(tensor.dim() == static_cast<int64_t>(size.size()), name, ": expected ", size.size(),
                  " dimensions; found ", tensor.dim());
  int64_t d = 0;
  for (int64_t expected : size) {
    STD_TORCH_CHECK(expected < 0 || tensor.size(d) == expected, name, ": expected size ", expected, " in dimension ", d,
                    "; found ", tensor.size(d));
    ++d;
  }
}

inline void check(const std::optional<Tensor>& tensor, const char* name, ScalarType type,
                  std::initializer_list<int64_t> size) {
  if (tensor.has_value()) check(*tensor, name, type, size);
}

template <typename scalar_t>
ImageView<const scalar_t> image_view(const Tensor& t) {
  return {data<scalar_t>(t), t.size(0),   t.size(1),   t.size(2),  t.size(3),
          t.stride(0),       t.stride(1), t.stride(2), t.stride(3)};
}

template <typename scalar_t>
ImageView<scalar_t> mutable_image_view(const Tensor& t) {
  return {mutable_data<scalar_t>(t),
          t.size(0),
          t.size(1),
          t.size(2),
          t.size(3),
          t.stride(0),
          t.stride(1),
          t.stride(2),
          t.stride(3)};
}

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

// Splits [0, n) over torch's threads; body(i) for each i. Nothing may depend on which thread runs it.
template <typename Body>
void parallel(int64_t n, const Body& body, int64_t grain = 1) {
  torch::stable::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i);
  });
}

}  // namespace dhvt
