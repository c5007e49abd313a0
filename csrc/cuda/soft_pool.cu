// Pooling of any values with the soft assignment, without ever storing it.
#include "cuda/soft_gradient.cuh"

namespace dhvt {
namespace {

// Rows (1, values) of x.
template <typename acc, int m>
__device__ __forceinline__ void stage_values(CellWarp<acc, m>& warp, const AnyImage<acc>& values, int first,
                                             int count) {
  acc squares[kPerLane] = {};
  const int ones = first == 0;
  __syncwarp();
  if (ones)
    for (int j = 0; j < kPerLane; ++j) warp.own.x[lane() + 32 * j] = acc(warp.used[j]);
  warp.stage_channels(values, first + ones - 1, count - ones, nullptr, warp.own.x + ones * kPitch, squares);
  __syncwarp();
}

// A warp per patch (soft_plan.cuh). Reads features and values once, b (C + Cv) bytes per pixel, and 9 centres per
// patch; leaves the sums of 4 centres per cell of a tile of four.
template <typename acc, int m>
__global__ void __launch_bounds__(kSoftThreads)
    pool_kernel(SoftJob<acc> job, Clusters<acc> clusters, AnyImage<acc> values, int entries, acc* sums) {
  using Shared = CellShared<acc, m>;
  auto* warps = shared_memory<Shared>();
  CellWarp<acc, m> warp(job, warps[threadIdx.x / 32]);
  for_each_patch(job.plan, [&](const Place& place, int round) {
    const bool active = warp.go(place, round);
    if (active) {
      typename CellWarp<acc, m>::Scores share;
      warp.score(&clusters, share);
      warp.normalize(share);
      warp.put_weights(share);
    }
#pragma unroll 1
    for (int first = 0; first < entries; first += Shared::kRows) {
      const int count = entries - first < Shared::kRows ? entries - first : Shared::kRows;
      if (active) {
        stage_values(warp, values, first, count);
        sum_products<kCandidates, m>(warp.own.x, warp.own.weight, warp.own.sums);
      } else {
        for (int i = lane(); i < kCandidates * Shared::kRows; i += 32) warp.own.sums[i] = 0;
      }
      combine(job.plan, place, false, round, warps, first, count, entries, sums);
    }
  });
}

// A block per tile reads the sums of all blocks once.
template <typename acc>
__global__ void __launch_bounds__(kSoftThreads)
    gather_pool_kernel(Plan plan, const acc* sums, int entries, acc* out /* [B,L,Cv] */, acc* mass /* [B,L] */) {
  for_each_tile(plan, [&](const Place& place) {
    gather_tile(plan, place, false, sums, entries, [&](const Place& of, int r, acc sum, acc) {
      const int64_t at = of.cell(plan);
      (r == 0 ? mass[at] : out[at * (entries - 1) + r - 1]) = sum;
    });
  });
}

std::tuple<Tensor, Tensor> soft_pool(const Tensor& features, const Tensor& values, const Tensor& centers,
                                     const Tensor& positions, const Tensor& mass, const std::optional<Tensor>& mask,
                                     const std::optional<Tensor>& coefficients, int64_t cell, double compactness,
                                     double temperature) {
  const Launcher launch(features);
  const std::optional<Tensor> given = mass;
  const SoftClusters in{features, centers, positions, given, mask, coefficients, cell, compactness, temperature};
  return soft_pool_checked(in, values, [&](auto tag, const Tensor& sums, const Tensor& pooled) {
    using acc = typename decltype(tag)::type;
    const AssignTensors<acc> tensors(in);
    const Plan& plan = tensors.job.plan;
    const int entries = int(values.size(1)) + 1;
    Workspace workspace;
    const int64_t partial = workspace.take<acc>(plan.sums(entries));
    workspace.allocate(features);
    constexpr int m = kRowEights<acc>;
    launch_tiles<CellShared<acc, m>>(launch, plan, pool_kernel<acc, m>, tensors.job, tensors.clusters,
                                     any_image<acc>(values), entries, workspace.at<acc>(partial));
    launch(gather_pool_kernel<acc>, tile_blocks(plan), dim3(kSoftThreads), 0, plan, workspace.at<acc>(partial), entries,
           mutable_data<acc>(sums), mutable_data<acc>(pooled));
  });
}

// d loss / d share = the gradients of a centre's mass and sums . (1, values).
template <typename acc>
struct PoolVectors {
  const acc* mass;       // [B,L]
  const acc* grad_sums;  // [B,L,Cv]
  const acc* grad_mass;  // [B,L]
  int channels;

  __device__ __forceinline__ acc value(int64_t at, int r) const {
    if (!(mass[at] > 0)) return 0;
    return r == 0 ? grad_mass[at] : grad_sums[at * channels + r - 1];
  }
  __device__ __forceinline__ acc offset(int64_t, int) const { return 0; }
};

// A warp per patch. Reads features and values once, writes the gradients of both: 2 b (C + Cv) bytes per pixel.
template <typename acc, int m>
__global__ void __launch_bounds__(kSoftThreads)
    pool_backward_kernel(SoftJob<acc> job, Clusters<acc> clusters, AnyImage<acc> values, PoolVectors<acc> vectors,
                         AnyImage<acc> grad_features, AnyImage<acc> grad_values, acc* sums, acc* pairs) {
  using Shared = GradientShared<acc, m>;
  using Scores = typename CellWarp<acc, m>::Scores;
  constexpr int kRows = Shared::kRows;
  auto* warps = shared_memory<Shared>();
  Shared& own = warps[threadIdx.x / 32];
  CellWarp<acc, m> warp(job, own);
  const int entries = vectors.channels + 1;
  acc total[2];
  for_each_patch(job.plan, [&](const Place& place, int round) {
    const bool active = warp.go(place, round);
    if (round == 0) total[0] = total[1] = 0;
    Scores grad = {};
    if (active) {
      warp.find_candidates(&clusters);
      acc inner[kPerLane][kOthers] = {}, constant = 0;
#pragma unroll 1
      for (int first = 0; first < entries; first += kRows) {
        const int count = entries - first < kRows ? entries - first : kRows;
        prepare_vectors(warp, own, first, count, vectors, constant);
        stage_values(warp, values, first, count);
        add_inner_products(own.x, own.vector, count, inner);
      }
      add_constants(own, constant, inner, grad);
      Scores share;
      warp.score(&clusters, share);
      warp.normalize(share);
      for (int j = 0; j < kPerLane; ++j)  // the values of a pixel that takes no part may be anything
        for (int k = 0; k < kCandidates; ++k) grad[j][k] = warp.used[j] ? grad[j][k] : acc(0);
#pragma unroll 1
      for (int first = 0; first < entries; first += kRows) {
        const int count = entries - first < kRows ? entries - first : kRows;
        if (entries > kRows) prepare_vectors(warp, own, first, count, vectors, constant);
        spread<true, false>(own, share, share, acc(0), int(first == 0), count,
                            [&](int d, int j, acc value) { warp.store(grad_values, first + d - 1, j, value); });
      }
      softmax_backward(share, grad);
    }
    scores_backward<false>(warp, active, clusters, grad, grad, NoVectors{}, place, round, warps, sums, total,
                           [&](int c, int j, acc value) { warp.store(grad_features, c, j, value); });
    if (round + 1 == job.plan.rounds) add_totals(job.plan, place, warps, total, true, pairs);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> soft_pool_backward(
    const Tensor& grad_sums, const Tensor& grad_mass, const Tensor& features, const Tensor& values,
    const Tensor& centers, const Tensor& positions, const Tensor& mass, const std::optional<Tensor>& mask,
    const std::optional<Tensor>& coefficients, int64_t cell, double compactness, double temperature) {
  const Launcher launch(features);
  const std::optional<Tensor> given = mass;
  const SoftClusters in{features, centers, positions, given, mask, coefficients, cell, compactness, temperature};
  return soft_pool_backward_checked(
      grad_sums, grad_mass, in, values,
      [&](auto tag, const SoftGradients& out, const Tensor& grad_values, const Tensor& of_sums, const Tensor& of_mass) {
        using acc = typename decltype(tag)::type;
        const AssignTensors<acc> tensors(in);
        const auto& job = tensors.job;
        const int channels = int(values.size(1));
        const PoolVectors<acc> vectors{tensors.clusters.mass, data<acc>(of_sums), data<acc>(of_mass), channels};
        gather_gradients(launch, job, out, [&](acc* sums, acc* pairs) {
          constexpr int m = kRowEights<acc>;
          launch_tiles<GradientShared<acc, m>>(launch, job.plan, pool_backward_kernel<acc, m>, job, tensors.clusters,
                                               any_image<acc>(values), vectors, any_image<acc>(out.features),
                                               any_image<acc>(grad_values), sums, pairs);
        });
      });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) {
  m.impl("soft_pool", TORCH_BOX(&dhvt::soft_pool));
  m.impl("soft_pool_backward", TORCH_BOX(&dhvt::soft_pool_backward));
}
