// Padded tokens to ragged ones and back, and padding to another length: rows are copied, whatever their dtype.
#include "pack_host.h"

#include "cuda/launch.cuh"

namespace dhvt {
namespace {

struct alignas(16) Chunk {
  uint32_t words[4];
};

// One warp per output row, 16 bytes per lane and step where rows lie on multiples of 16. Reads and writes each row
// once.
template <typename Piece, typename Source>
__global__ void __launch_bounds__(kThreads) copy_rows_kernel(const Piece* __restrict__ from, Piece* __restrict__ to,
                                                             int64_t pieces, int64_t rows, Source source) {
  const int64_t warps = int64_t(gridDim.x) * (kThreads / 32);
  for (int64_t row = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32; row < rows; row += warps) {
    const int64_t s = source(row);
    for (int64_t i = threadIdx.x % 32; i < pieces; i += 32)
      to[row * pieces + i] = s >= 0 ? from[s * pieces + i] : Piece{};
  }
}

class CopyRows {
 public:
  explicit CopyRows(const Tensor& on) : launch_(on) {}

  template <typename Source>
  void operator()(const Tensor& in, const Tensor& out, int64_t row_bytes, int64_t rows, const Source& source) const {
    const auto aligned = [&](uintptr_t to) {
      return (reinterpret_cast<uintptr_t>(in.const_data_ptr()) | reinterpret_cast<uintptr_t>(out.const_data_ptr()) |
              uintptr_t(row_bytes)) %
                 to ==
             0;
    };
    if (aligned(sizeof(Chunk)))
      copy<Chunk>(in, out, row_bytes, rows, source);
    else if (aligned(sizeof(uint32_t)))
      copy<uint32_t>(in, out, row_bytes, rows, source);
    else
      copy<uint8_t>(in, out, row_bytes, rows, source);
  }

 private:
  template <typename Piece, typename Source>
  void copy(const Tensor& in, const Tensor& out, int64_t row_bytes, int64_t rows, const Source& source) const {
    constexpr int64_t kRows = kThreads / 32;
    const int64_t pieces = row_bytes / int64_t(sizeof(Piece));
    if (pieces == 0) return;
    launch_(copy_rows_kernel<Piece, Source>, blocks_for((rows + kRows - 1) / kRows), dim3(kThreads), 0, data<Piece>(in),
            mutable_data<Piece>(out), pieces, rows, source);
  }

  Launcher launch_;
};

Tensor pack(const Tensor& values, const Tensor& cu_seqlens, int64_t total) {
  return pack_checked(values, cu_seqlens, total, CopyRows(values));
}

Tensor unpack(const Tensor& values, const Tensor& cu_seqlens, int64_t length) {
  return unpack_checked(values, cu_seqlens, length, CopyRows(values));
}

Tensor pad(const Tensor& values, const Tensor& counts, int64_t length) {
  return pad_checked(values, counts, length, CopyRows(values));
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) {
  m.impl("pack", TORCH_BOX(&dhvt::pack));
  m.impl("unpack", TORCH_BOX(&dhvt::unpack));
  m.impl("pad", TORCH_BOX(&dhvt::pad));
}
