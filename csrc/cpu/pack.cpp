// Padded tokens to ragged ones and back, and padding to another length: rows are copied, whatever their dtype.
#include <cstring>

#include "pack_host.h"

namespace dhvt {
namespace {

// One task per output row. Reads and writes each row once, and every output row is written.
struct CopyRows {
  template <typename Source>
  void operator()(const Tensor& in, const Tensor& out, int64_t row_bytes, int64_t rows, const Source& source) const {
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
};

Tensor pack(const Tensor& values, const Tensor& cu_seqlens, int64_t total) {
  return pack_checked(values, cu_seqlens, total, CopyRows{});
}

Tensor unpack(const Tensor& values, const Tensor& cu_seqlens, int64_t length) {
  return unpack_checked(values, cu_seqlens, length, CopyRows{});
}

Tensor pad(const Tensor& values, const Tensor& counts, int64_t length) {
  return pad_checked(values, counts, length, CopyRows{});
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("pack", TORCH_BOX(&dhvt::pack));
  m.impl("unpack", TORCH_BOX(&dhvt::unpack));
  m.impl("pad", TORCH_BOX(&dhvt::pad));
}
