// Padded tokens to ragged ones and back, and padding to another length: rows are copied, whatever their dtype.
#include "../pack.h"

#include <cstring>

#include "../common.h"

namespace dhvt {
namespace {

// One task per output row: the row source(row) of the input, or zeros where that is negative. Reads and writes each row
// once, and every output row is written.
template <typename Source>
void copy_rows(const Tensor& in, const Tensor& out, int64_t rows, int64_t row_bytes, const Source& source) {
  const char* from = data<char>(in);
  char* to = mutable_data<char>(out);
  const auto copy = [&](int64_t row) {
    const int64_t s = source(row);
    if (s >= 0)
      std::memcpy(to + row * row_bytes, from + s * row_bytes, row_bytes);
    else
      std::memset(to + row * row_bytes, 0, row_bytes);
  };
  if (row_bytes > 0) parallel(rows, copy, 64);
}

Tensor pack(const Tensor& values, const Tensor& cu_seqlens, int64_t total) {
  check(values, "values [B,K,D]", values.scalar_type(), {-1, -1, -1});
  check(cu_seqlens, "cu_seqlens [B+1]", ScalarType::Int, {values.size(0) + 1});
  STD_TORCH_CHECK(total >= 0, "total: expected an integer >= 0; found ", total);
  const int64_t batch = values.size(0), capacity = values.size(1);
  Tensor out = empty({total, values.size(2)}, values.scalar_type(), values);
  const Tensor dense_values = dense(values), dense_offsets = dense(cu_seqlens);
  const int32_t* offset = data<int32_t>(dense_offsets);
  copy_rows(dense_values, out, total, values.size(2) * values.element_size(),
            [&](int64_t t) { return batch == 0 ? -1 : padded_row(offset, batch, capacity, t); });
  return out;
}

Tensor unpack(const Tensor& values, const Tensor& cu_seqlens, int64_t length) {
  check(values, "values [T,D]", values.scalar_type(), {-1, -1});
  check(cu_seqlens, "cu_seqlens [B+1]", ScalarType::Int, {-1});
  STD_TORCH_CHECK(cu_seqlens.size(0) >= 1, "cu_seqlens [B+1]: expected at least one element");
  STD_TORCH_CHECK(length >= 0, "length: expected an integer >= 0; found ", length);
  const int64_t batch = cu_seqlens.size(0) - 1, total = values.size(0);
  Tensor out = empty({batch, length, values.size(1)}, values.scalar_type(), values);
  const Tensor dense_values = dense(values), dense_offsets = dense(cu_seqlens);
  const int32_t* offset = data<int32_t>(dense_offsets);
  copy_rows(dense_values, out, batch * length, values.size(1) * values.element_size(),
            [&](int64_t row) { return ragged_row(offset, row / length, row % length, total); });
  return out;
}

Tensor pad(const Tensor& values, const Tensor& counts, int64_t length) {
  check(values, "values [B,K,D]", values.scalar_type(), {-1, -1, -1});
  check(counts, "counts [B]", ScalarType::Int, {values.size(0)});
  STD_TORCH_CHECK(length >= 0, "length: expected an integer >= 0; found ", length);
  const int64_t capacity = values.size(1);
  Tensor out = empty({values.size(0), length, values.size(2)}, values.scalar_type(), values);
  const Tensor dense_values = dense(values), dense_counts = dense(counts);
  const int32_t* count = data<int32_t>(dense_counts);
  copy_rows(dense_values, out, values.size(0) * length, values.size(2) * values.element_size(), [&](int64_t row) {
    const int64_t b = row / length, i = row % length;
    return i < count[b] && i < capacity ? b * capacity + i : -1;
  });
  return out;
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("pack", TORCH_BOX(&dhvt::pack));
  m.impl("unpack", TORCH_BOX(&dhvt::unpack));
  m.impl("pad", TORCH_BOX(&dhvt::pad));
}
