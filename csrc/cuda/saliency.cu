// How strong the boundaries between the leaves of a tree are.
#include "cuda/launch.cuh"
#include "saliency_host.h"
#include "tree_cut.h"

namespace dhvt {
namespace {

// One thread per pixel, for its pairs to the right and below, which walk up to where they meet: at most as many steps
// as the tree is deep, in the L2 cache. 4 bytes per pixel in, 4 out.
struct SaliencyPixel {
  SaliencyTask task;

  __device__ void operator()(int64_t b, int64_t y, int64_t x) const {
    const int64_t at = b * task.height * task.width, v0 = b * task.nodes;
    const int32_t *parent = task.parent + v0, *round = task.round + v0;
    const auto up = [&](int32_t v) { return int32_t(valid_parent(parent, round, task.leaves, task.nodes, v)); };
    task.out[at + y * task.width + x] =
        pixel_saliency(task.labels + at, task.height, task.width, y, x, task.leaves, task.lower + v0, up);
  }
};

Tensor saliency(const Tensor& labels, const Tensor& lower, const Tensor& parent, const Tensor& round) {
  const Launcher launch(labels);
  return saliency_checked(labels, lower, parent, round, [&](const SaliencyTask& task) {
    for_each_pixel(launch, task.batch, task.height, task.width, SaliencyPixel{task});
  });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) { m.impl("saliency", TORCH_BOX(&dhvt::saliency)); }
