// Soft assignment at given centres, with the assignment itself as output.
#include "cuda/soft_gradient.cuh"

namespace dhvt {
namespace {

// A warp per patch of a cell (soft_plan.cuh), no exchange between them. Reads b C bytes per pixel, and 9 centres per 64
// pixels; writes 9 b + 4.
template <typename scalar_t, int m>
__global__ void __launch_bounds__(kSoftThreads)
    assign_kernel(SoftJob<scalar_t> job, Clusters<acc_t<scalar_t>> clusters, ImageView<scalar_t> assignment,
                  int32_t* __restrict__ labels /* [B,H,W] */) {
  using acc = acc_t<scalar_t>;
  CellWarp<scalar_t, m> warp(job, shared_memory<CellShared<acc, m>>()[threadIdx.x / 32]);
  for_each_patch(job.plan, [&](const Place& place, int round) {
    if (!warp.go(place, round)) return;
    typename CellWarp<scalar_t, m>::Scores share;
    int32_t label[kPerLane];
    warp.score(&clusters, share);
    for (int j = 0; j < kPerLane; ++j) label[j] = warp.label(share[j], j);
    warp.normalize(share);
    for (int j = 0; j < kPerLane; ++j) {
      if (!warp.exists[j]) continue;
      labels[warp.pixel(j)] = label[j];
      scalar_t* out = assignment.pixel(warp.b, warp.y[j], warp.x[j]);
      for (int k = 0; k < kCandidates; ++k) out[k * assignment.channel_stride] = static_cast<scalar_t>(share[j][k]);
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
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    const AssignTensors<scalar_t> tensors(in);
    dispatch_rows<acc>(tensors.job.rows(), [&](auto m) {
      launch_tiles<CellShared<acc, m>>(launch, tensors.job.plan, assign_kernel<scalar_t, m>, tensors.job,
                                       tensors.clusters, mutable_image_view<scalar_t>(assignment),
                                       mutable_data<int32_t>(labels));
    });
  });
}

// A warp per patch. Reads the features and 9 gradients, writes the gradient of the features: b (2 C + 9) bytes per
// pixel; leaves the sums of 4 centres per cell of a tile of four.
template <typename scalar_t, int m>
__global__ void __launch_bounds__(kSoftThreads)
    assign_backward_kernel(SoftJob<scalar_t> job, Clusters<acc_t<scalar_t>> clusters,
                           ImageView<const scalar_t> grad_assignment, ImageView<scalar_t> grad_features,
                           acc_t<scalar_t>* sums, acc_t<scalar_t>* pairs) {
  using acc = acc_t<scalar_t>;
  using Shared = GradientShared<acc, m>;
  auto* warps = shared_memory<Shared>();
  CellWarp<scalar_t, m> warp(job, warps[threadIdx.x / 32]);
  acc total[2];
  for_each_patch(job.plan, [&](const Place& place, int round) {
    const bool active = warp.go(place, round);
    if (round == 0) total[0] = total[1] = 0;
    typename CellWarp<scalar_t, m>::Scores grad = {};
    if (active) {
      typename CellWarp<scalar_t, m>::Scores share;
      warp.score(&clusters, share);
      // A share that is 0 by definition has no gradient, not even 0 * infinity.
      for (int j = 0; j < kPerLane; ++j)
        for (int k = 0; k < kCandidates; ++k)
          if (warp.used[j] && share[j][k] != -std::numeric_limits<acc>::infinity())
            grad[j][k] = static_cast<acc>(
                grad_assignment.pixel(warp.b, warp.y[j], warp.x[j])[k * grad_assignment.channel_stride]);
      warp.normalize(share);
      softmax_backward(share, grad);
    }
    scores_backward<false>(warp, active, clusters, grad, grad, NoVectors{}, place, round, warps, sums, total,
                           [&](int c, int j, acc value) {
                             if (warp.exists[j])
                               grad_features.pixel(warp.b, warp.y[j], warp.x[j])[c * grad_features.channel_stride] =
                                   static_cast<scalar_t>(value);
                           });
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
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    const AssignTensors<scalar_t> tensors(in);
    const auto& job = tensors.job;
    gather_gradients(launch, job, out, [&](acc* sums, acc* pairs) {
      dispatch_rows<acc>(job.rows(), [&](auto m) {
        launch_tiles<GradientShared<acc, m>>(launch, job.plan, assign_backward_kernel<scalar_t, m>, job,
                                             tensors.clusters, image_view<scalar_t>(grad_assignment),
                                             mutable_image_view<scalar_t>(out.features), sums, pairs);
      });
    });
  });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) {
  m.impl("soft_assign", TORCH_BOX(&dhvt::soft_assign));
  m.impl("soft_assign_backward", TORCH_BOX(&dhvt::soft_assign_backward));
}
