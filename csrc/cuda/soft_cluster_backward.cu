// The backward of soft clustering: walks the iterations backwards; each recomputes its assignment from the saved
// states.
#include "cuda/soft_gradient.cuh"

namespace dhvt {
namespace {

// Gradients of states are rows as of the matrix: of mass, centre and position.
template <typename acc>
struct BackwardJob {
  SoftJob<acc> soft;
  const acc* centers;    // [I+1,B,L,C]
  const acc* positions;  // [I+1,B,L,2]
  const acc* mass;       // [I+1,B,L]
  acc* of_state[2];      // [B,L,rows] of state i in of_state[i % 2]
  acc* sums;             // workspace of the plan
  int32_t* counters;     // [B,tiles]
  acc* pairs;            // [blocks,2], see add_totals
  AnyImage<acc> out;     // the gradient of the features, added up over the iterations

  __device__ __forceinline__ Clusters<acc> state(int i) const {
    const int64_t at = i * soft.plan.batch * soft.plan.cells();
    return {centers + at * soft.channels, positions + at * 2, mass + at};
  }
};

// mean = sum a g / sum a, so d mean / d a_i = (g_i - mean) / mass: vectors for rows relative to the mean.
template <typename acc>
struct UpdateVectors {
  Clusters<acc> after, before;
  const acc* grad;  // [B,L,rows] of the state after
  int64_t own;      // the cell whose centre before the rows are relative to
  int channels;

  __device__ __forceinline__ acc value(int64_t at, int r) const {
    const acc mass = after.mass[at], number = grad[at * (channels + 3) + r];
    return mass > 0 ? (r > 0 ? number * (acc(1) / mass) : number) : acc(0);
  }
  __device__ __forceinline__ acc offset(int64_t at, int r) const {
    return r <= channels ? after.centers[at * channels + r - 1] - before.centers[own * channels + r - 1]
                         : after.positions[at * 2 + r - 1 - channels] - before.positions[own * 2 + r - 1 - channels];
  }
};

// Iteration i: from the gradient of state i + 1 to what comes of it for state i and the features. A warp per patch
// (soft_plan.cuh). Reads the features, and reads (but for the last iteration, which is the first) and writes their
// gradient: (b + 8) C bytes per pixel, and 18 centres per patch; 90 C + 180 flop.
template <typename acc, int m>
__global__ void __launch_bounds__(kSoftThreads) cluster_backward_kernel(BackwardJob<acc> job, int i, bool fresh) {
  using Shared = GradientShared<acc, m>;
  using Scores = typename CellWarp<acc, m>::Scores;
  constexpr int kRows = Shared::kRows;
  auto* warps = shared_memory<Shared>();
  Shared& own = warps[threadIdx.x / 32];
  CellWarp<acc, m> warp(job.soft, own);
  const Plan& plan = job.soft.plan;
  const Clusters<acc> before = job.state(i), after = job.state(i + 1);
  const int rows = job.soft.rows();
  const acc* grad_after = job.of_state[(i + 1) % 2];
  acc* grad_before = job.of_state[i % 2];
  acc total[2];
  for_each_patch(plan, [&](const Place& place, int round) {
    const bool active = warp.go(place, round);
    if (round == 0) total[0] = total[1] = 0;
    Scores share, grad = {};
    UpdateVectors<acc> vectors{after, before, grad_after, 0, job.soft.channels};
    if (active) {
      vectors.own = warp.cell();
      warp.score(&before, share);
      warp.normalize(share);
      acc inner[kPerLane][kOthers] = {}, constant = 0;
#pragma unroll 1
      for (int first = 0; first < rows; first += kRows) {
        warp.revisit(&before, first);
        prepare_vectors(warp, own, first, warp.chunk(first), vectors, constant);
        add_inner_products(own.x, own.vector, warp.chunk(first), inner);
      }
      add_constants(own, constant, inner, grad);
      softmax_backward(share, grad);
    }
    scores_backward<true>(
        warp, active, before, share, grad, vectors, place, round, warps, job.sums, total, [&](int c, int j, acc value) {
          if (!warp.exists[j]) return;
          acc& out =
              static_cast<acc*>(job.out.data)[job.out.at(warp.b, warp.y[j], warp.x[j]) + c * job.out.channel_stride];
          out = fresh ? value : out + value;
        });
    if (round + 1 < plan.rounds) return;
    add_totals(plan, place, warps, total, fresh, job.pairs);
    complete_tiles(plan, place, false, job.counters, tile_shared(warps), job.sums, rows,
                   [&](const Place& of, int r, acc sum, acc) {
                     const int64_t at = of.cell(plan);
                     // The mass before only decides who is a candidate; a centre without mass was copied.
                     acc value = r > 0 ? sum * slope(warp.metric, r, job.soft.channels) : acc(0);
                     if (r > 0 && !(after.mass[at] > 0)) value += grad_after[at * rows + r];
                     grad_before[at * rows + r] = value;
                   });
  });
}

// The gradients of the last state, as rows; counters become 0.
template <typename acc>
struct PackGradients {
  const acc *centers, *positions, *mass;  // [B,L,C], [B,L,2], [B,L]
  acc* out;                               // [B,L,C+3]
  int32_t* counters;
  int64_t size, tiles;
  int channels;

  __device__ void operator()(int64_t i) const {
    if (i < tiles) counters[i] = 0;
    if (i >= size) return;
    const int64_t at = i / (channels + 3);
    const int r = int(i % (channels + 3));
    out[i] = r == 0 ? mass[at] : r <= channels ? centers[at * channels + r - 1] : positions[at * 2 + r - 1 - channels];
  }
};

// The gradient of the features of a pixel in their own dtype, with what comes through its cell's mean. One thread per
// pixel; reads the features, which say whether it takes part, and the sum so far, writes the gradient: (2 b + 4) C
// bytes.
template <typename acc>
struct FinishPixel {
  SoftJob<acc> soft;
  const acc* mass;  // [B,L] of state 0
  const acc* grad;  // [B,L,rows] of state 0; null without means
  AnyImage<acc> sums;
  AnyImage<acc> out;
  bool fresh;  // there is no sum so far

  __device__ void operator()(int64_t b, int64_t y, int64_t x) const {
    const Plan& plan = soft.plan;
    const int64_t at = b * plan.cells() + int(y) / plan.cell * plan.columns + int(x) / plan.cell;
    const acc* from = nullptr;
    if (grad && mass[at] > 0 && (!soft.mask || soft.mask[(b * plan.height + y) * plan.width + x])) {
      const int64_t first = soft.features.at(b, y, x);
      acc squares = 0;
      for (int c = 0; c < soft.channels; ++c) {
        const acc value = soft.features.load(first + c * soft.features.channel_stride);
        squares += value * value;
      }
      if (squares_are_finite(squares)) from = grad + at * soft.rows() + 1;
    }
    const acc scale = from ? acc(1) / mass[at] : acc(0);
    for (int c = 0; c < soft.channels; ++c) {
      acc value = fresh ? acc(0) : sums.load(sums.at(b, y, x) + c * sums.channel_stride);
      if (from) value += from[c] * scale;
      out.store(out.at(b, y, x) + c * out.channel_stride, value);
    }
  }
};

std::tuple<Tensor, Tensor> soft_cluster_backward(const Tensor& grad_centers, const Tensor& grad_positions,
                                                 const Tensor& grad_mass, const Tensor& features,
                                                 const std::optional<Tensor>& mask,
                                                 const std::optional<Tensor>& coefficients, const Tensor& centers,
                                                 const Tensor& positions, const Tensor& mass, int64_t cell,
                                                 double compactness, double temperature, bool last_only) {
  const Launcher launch(features);
  const ClusterStates given{grad_centers, grad_positions, grad_mass, centers, positions, mass};
  return soft_cluster_backward_checked(
      given, features, mask, coefficients, cell,
      [&](auto tag, const ClusterStates& in, const Tensor& grad_features, const Tensor& grad_coefficients) {
        using acc = typename decltype(tag)::type;
        const SoftTensors<acc> tensors(features, mask, coefficients, cell, compactness, temperature);
        const SoftJob<acc>& soft = tensors.job;
        const Plan& plan = soft.plan;
        const bool in_place = grad_features.scalar_type() == acc_type(grad_features.scalar_type());
        const int iterations = int(in.centers.size(0)) - 1;
        const int64_t tiles = plan.batch * plan.tiles(), numbers = plan.batch * plan.cells() * soft.rows();
        Workspace workspace;
        const int64_t even = workspace.take<acc>(numbers), odd = workspace.take<acc>(numbers),
                      sums = workspace.take<acc>(plan.sums(soft.rows())), counters = workspace.take<int32_t>(tiles),
                      pairs = workspace.take<acc>(2 * plan.blocks()),
                      image = workspace.take<acc>(in_place ? 0 : grad_features.numel());
        workspace.allocate(features);
        const auto out = any_image<acc>(grad_features);
        AnyImage<acc> sum = out;
        if (!in_place) sum.data = workspace.at<acc>(image), sum.type = 0;
        const BackwardJob<acc> job{soft,
                                   data<acc>(in.centers),
                                   data<acc>(in.positions),
                                   data<acc>(in.mass),
                                   {workspace.at<acc>(even), workspace.at<acc>(odd)},
                                   workspace.at<acc>(sums),
                                   workspace.at<int32_t>(counters),
                                   workspace.at<acc>(pairs),
                                   sum};
        for_each(launch, std::max(numbers, tiles),
                 PackGradients<acc>{data<acc>(in.grad_centers), data<acc>(in.grad_positions), data<acc>(in.grad_mass),
                                    job.of_state[iterations % 2], job.counters, numbers, tiles, soft.channels});
        dispatch_rows<acc>(soft.rows(), [&](auto m) {
          for (int i = iterations - 1; i >= (last_only ? std::max(iterations - 1, 0) : 0); --i)
            launch_tiles<GradientShared<acc, m>>(launch, plan, cluster_backward_kernel<acc, m>, job, i,
                                                 i == iterations - 1);
        });
        const bool through_means = !last_only || iterations == 0;
        if (through_means || !in_place)
          for_each_pixel(
              launch, plan.batch, plan.height, plan.width,
              FinishPixel<acc>{soft, job.mass, through_means ? job.of_state[0] : nullptr, sum, out, iterations == 0});
        launch_coefficients(launch, soft, job.pairs, iterations > 0 ? plan.blocks() : 0, grad_coefficients);
      });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) { m.impl("soft_cluster_backward", TORCH_BOX(&dhvt::soft_cluster_backward)); }
