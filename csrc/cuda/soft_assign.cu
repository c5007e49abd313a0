// Soft assignment at given centres, with the assignment itself as output.
#include "cuda/soft_gradient.cuh"

namespace dhvt {
namespace {

// A warp per patch of a cell (soft_plan.cuh), no exchange between them. Reads b C bytes per pixel, and 9 centres per 64
// pixels; writes 9 b + 4.
template <typename acc, int m>
__global__ void __launch_bounds__(kSoftThreads)
    assign_kernel(SoftJob<acc> job, Clusters<acc> clusters, AnyImage<acc> assignment,
                  int32_t* __restrict__ labels /* [B,H,W] */) {
  CellWarp<acc, m> warp(job, shared_memory<CellShared<acc, m>>()[threadIdx.x / 32]);
  for_each_patch(job.plan, [&](const Place& place, int round) {
    if (!warp.go(place, round)) return;
    typename CellWarp<acc, m>::Scores share;
    int32_t label[kPerLane];
    warp.score(&clusters, share);
    for (int j = 0; j < kPerLane; ++j) label[j] = warp.label(share[j], j);
    warp.normalize(share);
    for (int j = 0; j < kPerLane; ++j) {
      if (warp.exists[j]) labels[warp.pixel(j)] = label[j];
      for (int k = 0; k < kCandidates; ++k) warp.store(assignment, k, j, share[j][k]);
    }
  });
}

std::tuple<Tensor, Tensor> soft_assign(const Tensor& features, const Tensor& centers, const Tensor& positions,
                                       const std::optional<Tensor>& mass, const std::optional<Tensor>& mask,
                                       const std::optional<Tensor>& coefficients, int64_t cell, double compactness,
                                       double temperature) {
  const Launcher launch(features);
  const SoftClusters in{features, centers, positions, mass, mask, coefficients, cell, compactness, temperature};
  return soft_assign_checked(in, [&](auto tag, const Tensor& assignment, const Tensor& labels) {
    using acc = typename decltype(tag)::type;
    const AssignTensors<acc> tensors(in);
    constexpr int m = kRowEights<acc>;
    launch_tiles<CellShared<acc, m>>(launch, tensors.job.plan, assign_kernel<acc, m>, tensors.job, tensors.clusters,
                                     any_image<acc>(assignment), mutable_data<int32_t>(labels));
  });
}

// A warp per patch. Reads the features and 9 gradients, writes the gradient of the features: b (2 C + 9) bytes per
// pixel; leaves the sums of 4 centres per cell of a tile of four.
template <typename acc, int m>
__global__ void __launch_bounds__(kSoftThreads)
    assign_backward_kernel(SoftJob<acc> job, Clusters<acc> clusters, AnyImage<acc> grad_assignment,
                           AnyImage<acc> grad_features, acc* sums, acc* pairs) {
  using Shared = GradientShared<acc, m>;
  auto* warps = shared_memory<Shared>();
  CellWarp<acc, m> warp(job, warps[threadIdx.x / 32]);
  acc total[2];
  for_each_patch(job.plan, [&](const Place& place, int round) {
    const bool active = warp.go(place, round);
    if (round == 0) total[0] = total[1] = 0;
    typename CellWarp<acc, m>::Scores grad = {};
    if (active) {
      typename CellWarp<acc, m>::Scores share;
      warp.score(&clusters, share);
      // A share that is 0 by definition has no gradient, not even 0 * infinity.
      for (int j = 0; j < kPerLane; ++j)
        for (int k = 0; k < kCandidates; ++k)
          if (warp.used[j] && share[j][k] != -std::numeric_limits<acc>::infinity())
            grad[j][k] = warp.load(grad_assignment, k, j);
      warp.normalize(share);
      softmax_backward(share, grad);
    }
    scores_backward<false>(warp, active, clusters, grad, grad, NoVectors{}, place, round, warps, sums, total,
                           [&](int c, int j, acc value) { warp.store(grad_features, c, j, value); });
    if (round + 1 == job.plan.rounds) add_totals(job.plan, place, warps, total, true, pairs);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> soft_assign_backward(const Tensor& grad_assignment, const Tensor& features,
                                                                const Tensor& centers, const Tensor& positions,
                                                                const std::optional<Tensor>& mass,
                                                                const std::optional<Tensor>& mask,
                                                                const std::optional<Tensor>& coefficients, int64_t cell,
                                                                double compactness, double temperature) {
  const Launcher launch(features);
  const SoftClusters in{features, centers, positions, mass, mask, coefficients, cell, compactness, temperature};
  return soft_assign_backward_checked(grad_assignment, in, [&](auto tag, const SoftGradients& out) {
    using acc = typename decltype(tag)::type;
    const AssignTensors<acc> tensors(in);
    const auto& job = tensors.job;
    gather_gradients(launch, job, out, [&](acc* sums, acc* pairs) {
      constexpr int m = kRowEights<acc>;
      launch_tiles<GradientShared<acc, m>>(launch, job.plan, assign_backward_kernel<acc, m>, job, tensors.clusters,
                                           any_image<acc>(grad_assignment), any_image<acc>(out.features), sums, pairs);
    });
  });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) {
  m.impl("soft_assign", TORCH_BOX(&dhvt::soft_assign));
  m.impl("soft_assign_backward", TORCH_BOX(&dhvt::soft_assign_backward));
}
