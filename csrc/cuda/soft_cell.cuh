// What a warp computes for a patch of a cell: shares of its pixels in the nine candidates, and sums with them.
//
// The numbers of a pixel are rows of a matrix: 1, features, y, x, all but the first relative to the cell's own centre,
// so that the own candidate has score 0, and 8 coefficients per row remain. They lie in shared memory, [rows,kPitch];
// where there are more than kRows, in chunks, one after the other. Scores take the matrix with a lane per pixel: a row
// costs a lane 2 numbers of its own, 8 coefficients that all lanes read (two loads of 16 bytes), and 16 multiply-adds.
// Sums take it with a lane per 16 pixels and every eighth row, 12 loads of 16 bytes for 108 multiply-adds (with 24
// rows): so a pixel with C = 20 costs 36 C + 120 flop in 840 multiply-adds' slots per patch, and about 150 shared
// memory accesses.
#pragma once

#include <limits>

#include "cuda/soft_plan.cuh"
#include "image.h"

namespace dhvt {

constexpr int kOthers = kCandidates - 1;
constexpr int kPitch = kPatch + 16;  // two neighbouring rows do not meet in the banks of a quarter warp's load
constexpr int kGroups = 4;           // of pixels, in sums; the other lanes share the rows
constexpr int kRowLanes = 32 / kGroups;

__device__ __forceinline__ int candidate_of(int other) { return other < kOwnCell ? other : other + 1; }

__device__ __forceinline__ float power_of_two(float x) {
#ifdef __CUDA_ARCH__
  float out;  // relative error 2^-22; x is no denormal's exponent
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
#else
  return std::exp2(x);
#endif
}
__device__ __forceinline__ double power_of_two(double x) { return exp2(x); }

// Four numbers side by side in shared memory.
template <typename acc>
struct alignas(16) Four {
  acc v[4];
};
template <typename acc>
__device__ __forceinline__ Four<acc> load_four(const acc* from) {
  return *reinterpret_cast<const Four<acc>*>(from);
}

// Centres, positions and masses; mass null: all are candidates.
template <typename acc>
struct Clusters {
  const acc* centers;    // [B,L,C]
  const acc* positions;  // [B,L,2]
  const acc* mass;       // [B,L]
};

// What all kernels of a call are given.
template <typename scalar_t, typename acc = acc_t<scalar_t>>
struct SoftJob {
  Plan plan;
  ImageView<const scalar_t> features;
  const bool* mask;         // [B,H,W] or null
  const acc* coefficients;  // [2] or null
  acc compactness, temperature;

  __device__ __forceinline__ Metric<acc> metric() const {
    if (coefficients) return {coefficients[0], coefficients[1], plan.grid.cell};
    return {compactness, temperature, plan.grid.cell};
  }
  // Rows of the matrix: 1, features, y, x.
  DHVT_HD int64_t rows() const { return features.channels + 3; }
};

// A warp's shared memory. m: rows of a chunk, in eights.
template <typename acc, int m>
struct CellShared {
  static constexpr int kRows = kRowLanes * m;
  alignas(16) acc x[kRows * kPitch];
  alignas(16) acc weight[kCandidates * kPatch];
  alignas(16) acc coefficient[kRows * kOthers];  // of the scores / 2: differences, those of positions times kappa2
  alignas(16) acc constant[kOthers];
  acc base[kRows];         // what x is relative to
  acc apart[2 * kOthers];  // differences of positions
  acc sums[kCandidates * kRows];
  acc mass[12];
};

// Adds to sum[j][k] of the two pixels j of a lane, other candidates k, the products of `count` rows.
template <typename acc>
__device__ __forceinline__ void add_inner_products(const acc* x, const acc* coefficient, int count,
                                                   acc (&sum)[kPerLane][kOthers]) {
  x += lane();
  for (int d = 0; d < count; ++d, x += kPitch, coefficient += kOthers) {
    const Four<acc> low = load_four(coefficient), high = load_four(coefficient + 4);
    for (int j = 0; j < kPerLane; ++j) {
      const acc value = x[32 * j];
      for (int k = 0; k < 4; ++k) {
        sum[j][k] += low.v[k] * value;
        sum[j][k + 4] += high.v[k] * value;
      }
    }
  }
}

// sums [K,8m] = the sum over the patch of weight [K,kPatch] times x [8m,kPitch].
template <int K, int m, typename acc>
__device__ __forceinline__ void sum_products(const acc* x, const acc* weight, acc* sums) {
  const int group = lane() % kGroups, first = lane() / kGroups;
  acc sum[K][m] = {};
#pragma unroll 1
  for (int at = 4 * group; at < kPatch; at += 4 * kGroups) {
    Four<acc> value[m];
    for (int j = 0; j < m; ++j) value[j] = load_four(x + (j * kRowLanes + first) * kPitch + at);
    for (int k = 0; k < K; ++k) {
      const Four<acc> share = load_four(weight + k * kPatch + at);
      for (int j = 0; j < m; ++j)
        for (int i = 0; i < 4; ++i) sum[k][j] += share.v[i] * value[j].v[i];
    }
  }
  for (int k = 0; k < K; ++k)
    for (int j = 0; j < m; ++j) {
      for (int bits = 1; bits < kGroups; bits *= 2) sum[k][j] += __shfl_xor_sync(kAllLanes, sum[k][j], bits);
      if (group == k % kGroups) sums[(k * m + j) * kRowLanes + first] = sum[k][j];
    }
}

// A warp at a patch.
template <typename scalar_t, int m>
class CellWarp {
 public:
  using acc = acc_t<scalar_t>;
  using Shared = CellShared<acc, m>;
  static constexpr int kRows = Shared::kRows;
  using Scores = acc[kPerLane][kCandidates];

  const SoftJob<scalar_t>& job;
  const Metric<acc> metric;
  Shared& own;

  __device__ __forceinline__ CellWarp(const SoftJob<scalar_t>& job_, Shared& own_)
      : job(job_), metric(job_.metric()), own(own_) {}

  int64_t b, row, column;            // the cell
  int64_t y[kPerLane], x[kPerLane];  // the lane's pixels
  bool inside[kPerLane];             // the image and the mask have it
  bool exists[kPerLane];             // the image has it
  bool used[kPerLane];               // it takes part

  __device__ __forceinline__ bool chunked() const { return job.rows() > kRows; }

  // Goes to a patch; returns whether there is one.
  __device__ __forceinline__ bool go(const Place& place, int round) {
    const Plan& plan = job.plan;
    const CellGrid& grid = plan.grid;
    const int64_t patch =
        (int64_t(round) * plan.parts + place.part) * plan.warps + int64_t(threadIdx.x / 32) % plan.warps;
    b = place.b, row = place.row, column = place.column;
    if (!place.inside || patch >= plan.patches) return false;
    for (int j = 0; j < kPerLane; ++j) {
      const int64_t i = patch * kPatch + lane() + 32 * j;
      // Exact: the divisor is off by less than 2^-32, and i and the pitch are below 2^16.
      const int64_t down = plan.pitch == 1               ? i
                           : (i | plan.pitch) >> 16 == 0 ? int64_t(__umulhi(uint32_t(i), plan.divisor))
                                                         : i / plan.pitch;
      const int64_t right = i - down * plan.pitch;
      y[j] = row * grid.cell + down;
      x[j] = column * grid.cell + right;
      exists[j] = down < grid.row_height(row) && right < grid.column_width(column);
      inside[j] = exists[j] && (!job.mask || job.mask[pixel(j)]);
      used[j] = inside[j];
    }
    return true;
  }

  // Of the lane's pixel j, in a [B,H,W] array.
  __device__ __forceinline__ int64_t pixel(int j) const {
    return (b * job.plan.grid.height + y[j]) * job.plan.grid.width + x[j];
  }
  // Of the cell, in a [B,L] array.
  __device__ __forceinline__ int64_t cell() const {
    return b * job.plan.grid.cells() + row * job.plan.grid.columns + column;
  }
  // Of candidate k, or -1 outside the image.
  __device__ __forceinline__ int64_t candidate(int k) const {
    const int64_t j = job.plan.grid.candidate(row, column, k);
    return j < 0 ? j : b * job.plan.grid.cells() + j;
  }

  // The shares, and if asked for the labels.
  __device__ __forceinline__ void assign(const Clusters<acc>& clusters, Scores& share, int32_t* labels = nullptr) {
    score(clusters, share);
    for (int j = 0; j < kPerLane; ++j) {
      if (labels) labels[j] = label(share[j], j);
      acc best = share[j][kOwnCell];
      for (int k = 0; k < kCandidates; ++k) best = share[j][k] > best ? share[j][k] : best;
      acc sum = 0;
      for (int k = 0; k < kCandidates; ++k) {
        const acc exponent = (share[j][k] - best) * (2 * metric.scale);
        share[j][k] = exponent >= acc(kLeastExponent) ? power_of_two(exponent) : acc(0);
        sum += share[j][k];
      }
      const acc inverse = used[j] && sum > 0 ? acc(1) / sum : acc(0);
      for (int k = 0; k < kCandidates; ++k) share[j][k] *= inverse;
    }
  }

  // The best candidate, the own cell first, then the lowest index; the own cell for a pixel that is not finite, -1
  // outside the mask.
  __device__ __forceinline__ int32_t label(const acc (&score)[kCandidates], int j) const {
    const int64_t columns = job.plan.grid.columns;
    const int32_t here = int32_t(row * columns + column);
    acc best = score[kOwnCell];
    int32_t out = here;
    for (int k = 0; k < kCandidates; ++k)
      if (score[k] > best) best = score[k], out = here + int32_t(k / 3 - 1) * int32_t(columns) + k % 3 - 1;
    return used[j] ? out : inside[j] ? here : -1;
  }

  // Scores / 2 / scale; of what is no candidate, -infinity. Decides which pixels take part.
  __device__ __forceinline__ void score(const Clusters<acc>& clusters, Scores& score) {
    enter(clusters);
    acc sum[kPerLane][kOthers] = {}, squares[kPerLane] = {}, lengths = 0;
    for (int64_t first = 0; first < job.rows(); first += kRows) {
      const int count = chunk(first);
      prepare(clusters, first, count, lengths);
      stage(first, count, squares);
      __syncwarp();
      const int skipped = first == 0;  // the row of ones
      add_inner_products(own.x + skipped * kPitch, own.coefficient + skipped * kOthers, count - skipped, sum);
      __syncwarp();
    }
    for (int bits = kOthers; bits < 32; bits *= 2) lengths += __shfl_xor_sync(kAllLanes, lengths, bits);
    if (lane() < kOthers)
      own.constant[lane()] = there_ >= 0 ? lengths * acc(-0.5) : -std::numeric_limits<acc>::infinity();
    bool spoiled = false;
    for (int j = 0; j < kPerLane; ++j) {
      used[j] = inside[j] && squares_are_finite(squares[j]);
      spoiled |= used[j] != inside[j];
    }
    if (spoiled && !chunked())
      for (int d = 0; d < job.rows(); ++d)
        for (int j = 0; j < kPerLane; ++j)
          if (!used[j]) own.x[d * kPitch + lane() + 32 * j] = 0;
    __syncwarp();
    for (int j = 0; j < kPerLane; ++j) {
      for (int k = 0; k < kOthers; ++k) score[j][candidate_of(k)] = sum[j][k] + own.constant[k];
      score[j][kOwnCell] = own_alive_ ? acc(0) : -std::numeric_limits<acc>::infinity();
    }
  }

  // Rows from `first` on of x, and coefficients, in shared memory again where another chunk has taken their place.
  __device__ __forceinline__ void revisit(const Clusters<acc>& clusters, int64_t first) {
    if (!chunked()) return;
    acc lengths = 0, squares[kPerLane] = {};
    __syncwarp();
    prepare(clusters, first, chunk(first), lengths);
    stage(first, chunk(first), squares);
    __syncwarp();
  }

  // For the means of cells: x relative to 0 and the middle of the cell.
  __device__ __forceinline__ void stage_absolute(int64_t first, acc (&squares)[kPerLane]) {
    __syncwarp();
    for (int d = lane(); d < kRows; d += 32) own.base[d] = 0;
    stage(first, chunk(first), squares);
    __syncwarp();
  }

  __device__ __forceinline__ int chunk(int64_t first) const {
    return int(job.rows() - first < kRows ? job.rows() - first : kRows);
  }

  // weight [9,kPatch] in shared memory.
  __device__ __forceinline__ void put_weights(const Scores& share) {
    for (int j = 0; j < kPerLane; ++j)
      for (int k = 0; k < kCandidates; ++k) own.weight[k * kPatch + lane() + 32 * j] = share[j][k];
    __syncwarp();
  }

  // Rows of x from other channels of an image.
  __device__ __forceinline__ void stage_channels(const ImageView<const scalar_t>& view, int64_t channel, int count,
                                                 const acc* base, acc* out, acc (&squares)[kPerLane]) {
    constexpr int kBatch = 4;  // loads on their way together
    const scalar_t* from[kPerLane];
    for (int j = 0; j < kPerLane; ++j) from[j] = view.pixel(b, y[j], x[j]) + channel * view.channel_stride;
    for (int c = 0; c < count; c += kBatch) {
      acc value[kBatch][kPerLane];
      for (int i = 0; i < kBatch; ++i)
        for (int j = 0; j < kPerLane; ++j)
          value[i][j] = used[j] && c + i < count ? static_cast<acc>(from[j][(c + i) * view.channel_stride]) : acc(0);
      for (int i = 0; i < kBatch; ++i)
        if (c + i < count)
          for (int j = 0; j < kPerLane; ++j) {
            squares[j] += value[i][j] * value[i][j];
            if (base && used[j]) value[i][j] -= base[c + i];
            out[(c + i) * kPitch + lane() + 32 * j] = value[i][j];
          }
    }
  }

  // sums [9,kRows] of x - own centre become relative to each candidate. With `total`, adds to it the features' and the
  // positions' part of the sum of weight * score: with S and s a candidate's sums of x and weights, and D its
  // difference, D . S - |D|^2 s / 2 is half of it.
  __device__ __forceinline__ void make_relative(int64_t first, acc* total = nullptr) {
    const int k = lane() % kOthers, count = chunk(first);
    acc* sum = own.sums + candidate_of(k) * kRows;
    if (first == 0 && lane() < kCandidates) own.mass[lane()] = own.sums[lane() * kRows];
    __syncwarp();
    const acc mass = own.mass[candidate_of(k)];
    for (int d = lane() / kOthers; d < count; d += 32 / kOthers) {
      const int64_t position = first + d - 1 - job.features.channels;
      if (first + d == 0) continue;
      const acc apart = position < 0 ? own.coefficient[d * kOthers + k] : own.apart[position * kOthers + k];
      if (total) total[position < 0 ? 0 : 1] += apart * (sum[d] - acc(0.5) * apart * mass);
      sum[d] -= apart * mass;
    }
  }

 private:
  int64_t there_;  // of the other candidate lane() % 8: in a [B,L] array, or -1
  bool own_alive_;

  __device__ __forceinline__ void enter(const Clusters<acc>& clusters) {
    there_ = candidate(candidate_of(lane() % kOthers));
    if (there_ >= 0 && clusters.mass && !(clusters.mass[there_] > 0)) there_ = -1;
    own_alive_ = !clusters.mass || clusters.mass[cell()] > 0;
  }

  // coefficient, base and apart of `count` rows: lane / 8 and every fourth row, for one candidate.
  __device__ __forceinline__ void prepare(const Clusters<acc>& clusters, int64_t first, int count, acc& lengths) {
    const CellGrid& grid = job.plan.grid;
    const int64_t channels = job.features.channels;
    const int k = lane() % kOthers, other = candidate_of(k);
    const int64_t down = other / 3 - 1, across = other % 3 - 1;
    for (int d = lane() / kOthers; d < count; d += 32 / kOthers) {
      const int64_t r = first + d;
      acc base = 0, difference = 0, coefficient = 0;
      if (r > 0 && r <= channels) {
        base = clusters.centers[cell() * channels + r - 1];
        if (there_ >= 0) coefficient = difference = clusters.centers[there_ * channels + r - 1] - base;
      } else if (r > channels) {
        const int axis = int(r - 1 - channels);
        const auto middle = [&](int64_t at) {
          return axis == 0 ? grid.template middle_y<acc>(at) : grid.template middle_x<acc>(at);
        };
        const auto size = [&](int64_t at) { return axis == 0 ? grid.row_height(at) : grid.column_width(at); };
        const int64_t here = axis == 0 ? row : column, step = axis == 0 ? down : across;
        base = clusters.positions[cell() * 2 + axis] - middle(here);
        if (there_ >= 0) {
          const acc between = acc(step * grid.cell) + acc(size(here + step) - size(here)) / 2;
          difference = clusters.positions[there_ * 2 + axis] - middle(here + step) - base + between;
        }
        coefficient = metric.kappa2 * difference;
        own.apart[axis * kOthers + k] = difference;
      }
      lengths += difference * coefficient;
      own.coefficient[d * kOthers + k] = coefficient;
      if (k == 0) own.base[d] = base;
    }
    __syncwarp();
  }

  // Rows of x: 1, features, positions from the middle of the cell, all relative to `base`; 0 for pixels that take no
  // part.
  __device__ __forceinline__ void stage(int64_t first, int count, acc (&squares)[kPerLane]) {
    const CellGrid& grid = job.plan.grid;
    const int64_t channels = job.features.channels;
    const int ones = first == 0, features = int(channels + 1 - first < count ? channels + 1 - first : count) - ones;
    const auto put = [&](int d, int j, acc value) { own.x[d * kPitch + lane() + 32 * j] = used[j] ? value : acc(0); };
    if (ones)
      for (int j = 0; j < kPerLane; ++j) put(0, j, acc(1));
    if (features > 0)
      stage_channels(job.features, first + ones - 1, features, own.base + ones, own.x + ones * kPitch, squares);
    for (int d = ones + (features > 0 ? features : 0); d < count; ++d) {
      const bool vertical = first + d == channels + 1;
      for (int j = 0; j < kPerLane; ++j) {
        const int64_t from = vertical ? y[j] - row * grid.cell : x[j] - column * grid.cell;
        const int64_t size = vertical ? grid.row_height(row) : grid.column_width(column);
        put(d, j, acc(from) - acc(size - 1) / 2 - own.base[d]);
      }
    }
  }
};

}  // namespace dhvt
