// What the backwards of the soft operators share: from the gradient of the assignment to those of features, of centres
// and of (compactness, temperature).
#pragma once

#include "cuda/soft_launch.cuh"

namespace dhvt {

// A warp's shared memory in a backward. A gradient of the shares that is linear in the rows of a matrix has a vector
// per candidate; relative to that of the own candidate, since the softmax takes no notice of what all have in common.
template <typename acc, int m>
struct GradientShared : CellShared<acc, m> {
  using CellShared<acc, m>::kRows;
  alignas(16) acc vector[kRows * kOthers];
  acc vector_constant[kOthers];
  acc vector_base[kRows];  // of the own candidate
  acc total[2];            // see add_totals
};

// Rows [first, first + count) of the vectors. source.value(at, r): number r of a centre's vector; source.offset(at, r):
// of what its row is relative to, from where x begins. Adds to `constant` what follows from it for candidate lane()
// % 8.
template <int m, typename Shared, typename Source, typename acc>
__device__ __forceinline__ void prepare_vectors(const CellWarp<acc, m>& warp, Shared& own, int first, int count,
                                                const Source& source, acc& constant) {
  const int k = lane() % kOthers;
  const int64_t there = warp.other(), cell = warp.cell();
  __syncwarp();
#pragma unroll 1
  for (int d = lane() / kOthers; d < count; d += 32 / kOthers) {
    const int r = first + d;
    const acc base = source.value(cell, r), value = there >= 0 ? source.value(there, r) : acc(0);
    own.vector[d * kOthers + k] = value - base;
    if (k == 0) own.vector_base[d] = base;
    if (r > 0) constant += base * source.offset(cell, r) - (there >= 0 ? value * source.offset(there, r) : acc(0));
  }
  __syncwarp();
}

// Adds the constants to the inner products of rows and vectors: the gradient of the shares, 0 for the own candidate.
template <typename Shared, typename acc>
__device__ __forceinline__ void add_constants(Shared& own, acc constant, const acc (&inner)[kPerLane][kOthers],
                                              acc (&grad)[kPerLane][kCandidates]) {
  for (int bits = kOthers; bits < 32; bits *= 2) constant += __shfl_xor_sync(kAllLanes, constant, bits);
  if (lane() < kOthers) own.vector_constant[lane()] = constant;
  __syncwarp();
  for (int j = 0; j < kPerLane; ++j) {
    grad[j][kOwnCell] = 0;
    for (int k = 0; k < kOthers; ++k) grad[j][candidate_of(k)] = inner[j][k] + own.vector_constant[k];
  }
}

// From the gradient of the shares to that of the scores, but for 1 / temperature.
template <typename acc>
__device__ __forceinline__ void softmax_backward(const acc (&share)[kPerLane][kCandidates],
                                                 acc (&grad)[kPerLane][kCandidates]) {
  for (int j = 0; j < kPerLane; ++j) {
    acc sum = 0;
    for (int k = 0; k < kCandidates; ++k) {
      grad[j][k] *= share[j][k];
      sum += grad[j][k];
    }
    for (int k = 0; k < kCandidates; ++k) grad[j][k] -= share[j][k] * sum;
  }
}

// out(d, j, value) for rows [begin, end) of a chunk and the pixels j of a lane: sum_k share[k] vector_k where `shares`,
// and factor * sum_k grad[k] difference_k where `scores`. A row costs a lane two loads of 16 bytes that all lanes read,
// and 16 multiply-adds, for each.
template <bool shares, bool scores, typename Shared, typename acc, typename Out>
__device__ __forceinline__ void spread(const Shared& own, const acc (&share)[kPerLane][kCandidates],
                                       const acc (&grad)[kPerLane][kCandidates], acc factor, int begin, int end,
                                       const Out& out) {
  acc whole[kPerLane] = {};
  if (shares)
    for (int j = 0; j < kPerLane; ++j)
      for (int k = 0; k < kCandidates; ++k) whole[j] += share[j][k];
  const auto add = [](const acc* row, const acc(&by)[kPerLane][kCandidates], acc(&sum)[kPerLane]) {
    const Four<acc> low = load_four(row), high = load_four(row + 4);
    for (int j = 0; j < kPerLane; ++j)
      for (int k = 0; k < 4; ++k) sum[j] += by[j][k] * low.v[k] + by[j][candidate_of(k + 4)] * high.v[k];
  };
#pragma unroll 1
  for (int d = begin; d < end; ++d) {
    acc from_scores[kPerLane] = {}, from_shares[kPerLane] = {};
    if (scores) add(own.coefficient + d * kOthers, grad, from_scores);
    if (shares) add(own.vector + d * kOthers, share, from_shares);
    for (int j = 0; j < kPerLane; ++j) {
      acc value = scores ? factor * from_scores[j] : acc(0);
      if (shares) value += from_shares[j] + own.vector_base[d] * whole[j];
      out(d, j, value);
    }
  }
}

// Leaves what a block's patches have for (features, positions) of the scores, `total` of each lane, in pairs
// [blocks,2].
template <typename Shared, typename acc>
__device__ __forceinline__ void add_totals(const Plan& plan, const Place& place, Shared* warps, const acc (&total)[2],
                                           bool fresh, acc* pairs) {
  Shared& own = warps[threadIdx.x / 32];
  for (int i = 0; i < 2; ++i) {
    const acc sum = warp_sum(total[i]);
    if (lane() == 0) own.total[i] = sum;
  }
  __syncthreads();
  if (threadIdx.x < 2) {
    acc& out = pairs[(place.tile(plan) * plan.parts + place.part) * 2 + threadIdx.x];
    acc sum = fresh ? acc(0) : out;
    for (int w = 0; w < kWarps; ++w) sum += warps[w].total[threadIdx.x];
    out = sum;
  }
  __syncthreads();
}

// The gradient of (compactness, temperature) from all pairs, by one block.
template <typename acc>
__global__ void __launch_bounds__(kThreads)
    coefficients_kernel(SoftJob<acc> job, const acc* pairs, int64_t count, acc* out) {
  acc* shared = shared_memory<acc>();  // [2,warps]
  acc sum[2] = {};
  for (int64_t i = threadIdx.x; i < count; i += kThreads)
    for (int part = 0; part < 2; ++part) sum[part] += pairs[2 * i + part];
  for (int part = 0; part < 2; ++part) {
    sum[part] = warp_sum(sum[part]);
    if (lane() == 0) shared[part * (kThreads / 32) + threadIdx.x / 32] = sum[part];
  }
  __syncthreads();
  if (threadIdx.x > 0) return;
  acc features = 0, positions = 0;
  for (int w = 0; w < kThreads / 32; ++w) {
    features += 2 * shared[w];
    positions += 2 * shared[kThreads / 32 + w];
  }
  const Metric<acc> metric = job.metric();
  positions *= metric.kappa2;
  out[0] = metric.compactness != 0 ? 2 * positions * metric.inverse_temperature / metric.compactness : acc(0);
  out[1] = -(features + positions) * metric.inverse_temperature * metric.inverse_temperature;
}

template <typename acc>
void launch_coefficients(const Launcher& launch, const SoftJob<acc>& job, const acc* pairs, int64_t count,
                         const Tensor& out) {
  launch(coefficients_kernel<acc>, dim3(1), dim3(kThreads), 2 * (kThreads / 32) * sizeof(acc), job, pairs, count,
         mutable_data<acc>(out));
}

// A factor of the gradient of a centre's number r, from the sum of the scores' gradients times x.
template <typename acc>
__device__ __forceinline__ acc slope(const Metric<acc>& metric, int r, int channels) {
  return 2 * (r <= channels ? acc(1) : metric.kappa2) * metric.inverse_temperature;
}

// The gradients of centres and positions from the sums of all blocks; a block per tile. Reads the sums once.
template <typename acc>
__global__ void __launch_bounds__(kSoftThreads)
    gather_gradients_kernel(SoftJob<acc> job, const acc* sums, acc* centers /* [B,L,C] */,
                            acc* positions /* [B,L,2] */) {
  const Metric<acc> metric = job.metric();
  for_each_tile(job.plan, [&](const Place& place) {
    gather_tile(job.plan, place, false, sums, job.rows(), [&](const Place& of, int r, acc sum, acc) {
      const int64_t at = of.cell(job.plan);
      const int channels = job.channels;
      if (r == 0) return;
      (r <= channels ? centers[at * channels + r - 1] : positions[at * 2 + r - 1 - channels]) =
          sum * slope(metric, r, channels);
    });
  });
}

// Runs patches(sums, pairs), which leaves its sums in a workspace, and gathers the gradients of centres, positions and
// coefficients: three launches.
template <typename acc, typename Patches>
void gather_gradients(const Launcher& launch, const SoftJob<acc>& job, const SoftGradients& out,
                      const Patches& patches) {
  Workspace workspace;
  const int64_t sums = workspace.take<acc>(job.plan.sums(job.rows()));
  const int64_t pairs = workspace.take<acc>(2 * job.plan.blocks());
  workspace.allocate(out.features);
  patches(workspace.at<acc>(sums), workspace.at<acc>(pairs));
  launch(gather_gradients_kernel<acc>, tile_blocks(job.plan), dim3(kSoftThreads), 0, job, workspace.at<acc>(sums),
         mutable_data<acc>(out.centers), mutable_data<acc>(out.positions));
  launch_coefficients(launch, job, workspace.at<acc>(pairs), job.plan.blocks(), out.coefficients);
}

// For spread without shares.
struct NoVectors {};

// The second half of a patch's backward: `grad` is the gradient of the scores; gives those of the features, out(c, j,
// value), and of the centres, in `sums`, and adds to `total`. With `shares` the features are what the shares multiply,
// too.
template <bool shares, int m, typename Shared, typename Vectors, typename acc, typename Out>
__device__ __forceinline__ void scores_backward(CellWarp<acc, m>& warp, bool active, const Clusters<acc>& clusters,
                                                const acc (&share)[kPerLane][kCandidates],
                                                const acc (&grad)[kPerLane][kCandidates], const Vectors& vectors,
                                                const Place& place, int round, Shared* warps, acc* sums,
                                                acc (&total)[2], const Out& out) {
  constexpr int kRows = Shared::kRows;
  Shared& own = warps[threadIdx.x / 32];
  if (active) warp.put_weights(grad);
#pragma unroll 1
  for (int first = 0; first < warp.job.rows(); first += kRows) {
    if (active) {
      warp.revisit(&clusters, first);
      const int left = warp.job.channels + 1 - first, count = warp.chunk(first);
      if constexpr (shares) {
        acc constant = 0;
        if (warp.chunked()) prepare_vectors(warp, own, first, count, vectors, constant);
      }
      spread<shares, true>(own, share, grad, 2 * warp.metric.inverse_temperature, int(first == 0),
                           left < count ? left : count, [&](int d, int j, acc value) { out(first + d - 1, j, value); });
      sum_products<kCandidates, m>(own.x, own.weight, own.sums);
      __syncwarp();
      warp.make_relative(first, total);
    } else {
      for (int i = lane(); i < kCandidates * kRows; i += 32) own.sums[i] = 0;
    }
    combine(warp.job.plan, place, false, round, warps, first, warp.chunk(first), warp.job.rows(), sums);
  }
}

}  // namespace dhvt
