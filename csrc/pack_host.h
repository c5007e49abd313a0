// pack, unpack and pad: checks and outputs, shared by every device.
#pragma once

#include "common.h"
#include "pack.h"

namespace dhvt {

// `copy(in, out, row_bytes, rows, source)` fills each row of `out` with row source(row) of `in`, or with zeros where
// that is negative; both are dense.

template <typename Copy>
Tensor pack_checked(const Tensor& values, const Tensor& cu_seqlens, int64_t total, const Copy& copy) {
  check(values, "values [B,K,D]", values.scalar_type(), {-1, -1, -1});
  check(cu_seqlens, "cu_seqlens [B+1]", ScalarType::Int, {values.size(0) + 1});
  STD_TORCH_CHECK(total >= 0, "total: expected an integer >= 0; found ", total);
  Tensor out = empty({total, values.size(2)}, values.scalar_type(), values);
  const Tensor offsets = dense(cu_seqlens);
  copy(dense(values), out, values.size(2) * values.element_size(), total,
       PackedRow{data<int32_t>(offsets), values.size(0), values.size(1)});
  return out;
}

template <typename Copy>
Tensor unpack_checked(const Tensor& values, const Tensor& cu_seqlens, int64_t length, const Copy& copy) {
  check(values, "values [T,D]", values.scalar_type(), {-1, -1});
  check(cu_seqlens, "cu_seqlens [B+1]", ScalarType::Int, {-1});
  STD_TORCH_CHECK(cu_seqlens.size(0) >= 1, "cu_seqlens [B+1]: expected at least one element");
  STD_TORCH_CHECK(length >= 0, "length: expected an integer >= 0; found ", length);
  const int64_t batch = cu_seqlens.size(0) - 1;
  Tensor out = empty({batch, length, values.size(1)}, values.scalar_type(), values);
  const Tensor offsets = dense(cu_seqlens);
  copy(dense(values), out, values.size(1) * values.element_size(), batch * length,
       UnpackedRow{data<int32_t>(offsets), length, values.size(0)});
  return out;
}

template <typename Copy>
Tensor pad_checked(const Tensor& values, const Tensor& counts, int64_t length, const Copy& copy) {
  check(values, "values [B,K,D]", values.scalar_type(), {-1, -1, -1});
  check(counts, "counts [B]", ScalarType::Int, {values.size(0)});
  STD_TORCH_CHECK(length >= 0, "length: expected an integer >= 0; found ", length);
  Tensor out = empty({values.size(0), length, values.size(2)}, values.scalar_type(), values);
  const Tensor dense_counts = dense(counts);
  copy(dense(values), out, values.size(2) * values.element_size(), values.size(0) * length,
       PaddedRow{data<int32_t>(dense_counts), values.size(1), length});
  return out;
}

}  // namespace dhvt
