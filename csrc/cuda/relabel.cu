// Looking labels up in a table.
#include "relabel_host.h"

#include "cuda/launch.cuh"

namespace dhvt {
namespace {

// One thread per pixel: 4 bytes in, 4 out; the table stays in the L2 cache.
struct RelabelPixel {
  const int32_t* labels;  // [B,H,W]
  const int32_t* table;   // [B,K]
  int32_t* out;           // [B,H,W]
  int64_t pixels, size;

  __device__ void operator()(int64_t b, int64_t, int64_t i) const {
    const int32_t k = labels[b * pixels + i];
    out[b * pixels + i] = k >= 0 && k < size ? table[b * size + k] : -1;
  }
};

Tensor relabel(const Tensor& labels, const Tensor& table) {
  const Launcher launch(labels);
  return relabel_checked(labels, table, [&](const Tensor& labels, const Tensor& table, const Tensor& out) {
    const int64_t pixels = labels.size(1) * labels.size(2);
    for_each_pixel(
        launch, labels.size(0), 1, pixels,
        RelabelPixel{data<int32_t>(labels), data<int32_t>(table), mutable_data<int32_t>(out), pixels, table.size(1)});
  });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) { m.impl("relabel", TORCH_BOX(&dhvt::relabel)); }
