// What a warp computes for a patch of a cell: shares of its pixels in the nine candidates, and sums with them.
//
// The numbers of a pixel are rows of a matrix: 1, features, y, x, all but the first relative to the cell's own centre,
// so that the own candidate has score 0, and 8 coefficients per row remain. They lie in shared memory, [rows,kPitch];
// where there are more than kRows, in chunks, one after the other. Scores take the matrix with a lane per pixel: a row
// costs a lane 2 numbers of its own, 8 coefficients that all lanes read (two loads of 16 bytes), and 16 multiply-adds.
// Sums take it with a lane per 16 pixels and every eighth row, 12 loads of 16 bytes for 108 multiply-adds (with 24
// rows). A pixel costs 36 C + 120 flop: with C = 20 a patch takes 840 multiply-adds of a warp, and about 200 accesses
// of shared memory, half of them of 16 bytes.
#pragma once

#include <limits>

#include "cuda/soft_plan.cuh"

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
template <typename acc>
struct SoftJob {
  Plan plan;
  AnyImage<acc> features;
  const bool* mask;         // [B,H,W] or null
  const acc* coefficients;  // [2] or null
  acc compactness, temperature;
  int64_t cell;  // as the metric has it
  int channels;

  __device__ __forceinline__ Metric<acc> metric() const {
    return coefficients ? Metric<acc>(coefficients[0], coefficients[1], cell)
                        : Metric<acc>(compactness, temperature, cell);
  }
  // Rows of the matrix: 1, features, y, x.
  DHVT_HD int rows() const { return channels + 3; }
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
template <typename acc, int m>
class CellWarp {
 public:
  using Shared = CellShared<acc, m>;
  static constexpr int kRows = Shared::kRows;
  using Scores = acc[kPerLane][kCandidates];

  const SoftJob<acc>& job;
  const Metric<acc> metric;
  Shared& own;

  int64_t b;                     // the image
  int row, column;               // the cell
  int y[kPerLane], x[kPerLane];  // the lane's pixels
  bool exists[kPerLane];         // the image has it
  bool inside[kPerLane];         // the mask, too
  bool used[kPerLane];           // it takes part

  __device__ __forceinline__ CellWarp(const SoftJob<acc>& job_, Shared& own_)
      : job(job_), metric(job_.metric()), own(own_) {}

  __device__ __forceinline__ bool chunked() const { return job.rows() > kRows; }
  __device__ __forceinline__ int chunk(int first) const {
    return job.rows() - first < kRows ? job.rows() - first : kRows;
  }

  // Goes to a patch; returns whether there is one.
  __device__ __forceinline__ bool go(const Place& place, int round) {
    const Plan& plan = job.plan;
    const int64_t patch = int64_t(round * plan.parts + place.part) * plan.warps + int(threadIdx.x / 32) % plan.warps;
    b = place.b, row = place.row, column = place.column;
    if (!place.inside || patch >= plan.patches) return false;
    for (int j = 0; j < kPerLane; ++j) {
      const int64_t i = patch * kPatch + lane() + 32 * j;
      int down;
      if (plan.patches <= 1024)  // exact: the divisor is off by less than 2^-32, i and the pitch are at most 2^16
        down = plan.pitch == 1 ? int(i) : int(__umulhi(uint32_t(i), plan.divisor));
      else
        down = int(i / plan.pitch);
      const int right = int(i - int64_t(down) * plan.pitch);
      y[j] = row * plan.cell + down;
      x[j] = column * plan.cell + right;
      exists[j] = down < plan.size(0, row) && right < plan.size(1, column);
      inside[j] = exists[j] && (!job.mask || job.mask[pixel(j)]);
      used[j] = inside[j];
    }
    return true;
  }

  // Of the lane's pixel j, in a [B,H,W] array.
  __device__ __forceinline__ int64_t pixel(int j) const { return (b * job.plan.height + y[j]) * job.plan.width + x[j]; }
  // Of the cell, in a [B,L] array.
  __device__ __forceinline__ int64_t cell() const { return candidate(kOwnCell); }
  // Of candidate k, or -1 outside the image.
  __device__ __forceinline__ int64_t candidate(int k) const {
    const int r = row + k / 3 - 1, c = column + k % 3 - 1;
    const bool there = r >= 0 && r < job.plan.rows && c >= 0 && c < job.plan.columns;
    return there ? b * job.plan.cells() + r * job.plan.columns + c : -1;
  }
  // Of the other candidate lane() % 8, or -1 if it is none.
  __device__ __forceinline__ int64_t other() const { return there_; }

  // From scores to shares.
  __device__ __forceinline__ void normalize(Scores& share) const {
    for (int j = 0; j < kPerLane; ++j) {
      acc best = share[j][kOwnCell], sum = 0;
      for (int k = 0; k < kCandidates; ++k) best = share[j][k] > best ? share[j][k] : best;
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
    const int here = row * job.plan.columns + column;
    acc best = score[kOwnCell];
    int out = here;
    for (int k = 0; k < kCandidates; ++k)
      if (score[k] > best) best = score[k], out = here + (k / 3 - 1) * job.plan.columns + k % 3 - 1;
    return used[j] ? out : inside[j] ? here : -1;
  }

  __device__ __forceinline__ void find_candidates(const Clusters<acc>* clusters) {
    there_ = clusters ? candidate(candidate_of(lane() % kOthers)) : -1;
    if (there_ >= 0 && clusters->mass && !(clusters->mass[there_] > 0)) there_ = -1;
  }

  // Scores / 2 / scale; of what is no candidate, -infinity. Decides which pixels take part. Without clusters, the own
  // cell is the only candidate, and x is relative to 0 and to the middle of the cell.
  __device__ __forceinline__ void score(const Clusters<acc>* clusters, Scores& score) {
    find_candidates(clusters);
    const bool alive = !clusters || !clusters->mass || clusters->mass[cell()] > 0;
    acc sum[kPerLane][kOthers] = {}, squares[kPerLane] = {}, lengths = 0;
#pragma unroll 1
    for (int first = 0; first < job.rows(); first += kRows) {
      enter(clusters, first, lengths, squares);
      const int skipped = first == 0;  // the row of ones
      add_inner_products(own.x + skipped * kPitch, own.coefficient + skipped * kOthers, chunk(first) - skipped, sum);
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
#pragma unroll 1
      for (int d = 0; d < job.rows(); ++d)
        for (int j = 0; j < kPerLane; ++j)
          if (!used[j]) own.x[d * kPitch + lane() + 32 * j] = 0;
    __syncwarp();
    for (int j = 0; j < kPerLane; ++j) {
      for (int k = 0; k < kOthers; ++k) score[j][candidate_of(k)] = sum[j][k] + own.constant[k];
      score[j][kOwnCell] = alive ? acc(0) : -std::numeric_limits<acc>::infinity();
    }
  }

  // Rows from `first` on of x, and coefficients, in shared memory again where another chunk has taken their place.
  __device__ __forceinline__ void revisit(const Clusters<acc>* clusters, int first) {
    acc lengths = 0, squares[kPerLane] = {};
    if (chunked()) enter(clusters, first, lengths, squares);
  }

  // weight [9,kPatch] in shared memory.
  __device__ __forceinline__ void put_weights(const Scores& share) {
    for (int j = 0; j < kPerLane; ++j)
      for (int k = 0; k < kCandidates; ++k) own.weight[k * kPatch + lane() + 32 * j] = share[j][k];
    __syncwarp();
  }

  // The same where the own cell has all of a pixel.
  __device__ __forceinline__ void put_used() {
    for (int j = 0; j < kPerLane; ++j) own.weight[kOwnCell * kPatch + lane() + 32 * j] = acc(used[j]);
    __syncwarp();
  }

  // Rows of x from channels of an image, 0 for pixels that take no part; relative to base, if there is one.
  __device__ __forceinline__ void stage_channels(const AnyImage<acc>& image, int channel, int count, const acc* base,
                                                 acc* out, acc (&squares)[kPerLane]) {
    constexpr int kBatch = 4;  // loads on their way together
    int64_t from[kPerLane];
    for (int j = 0; j < kPerLane; ++j) from[j] = image.at(b, y[j], x[j]) + channel * image.channel_stride;
    out += lane();
    image.visit([&](const auto* data) {
#pragma unroll 1
      for (int c = 0; c < count; c += kBatch) {
        acc value[kBatch][kPerLane];
        for (int i = 0; i < kBatch; ++i)
          for (int j = 0; j < kPerLane; ++j) {
            value[i][j] = used[j] && c + i < count ? static_cast<acc>(data[from[j]]) : acc(0);
            from[j] += image.channel_stride;
          }
        for (int i = 0; i < kBatch; ++i, out += kPitch)
          if (c + i < count)
            for (int j = 0; j < kPerLane; ++j) {
              squares[j] += value[i][j] * value[i][j];
              out[32 * j] = base && used[j] ? value[i][j] - base[c + i] : value[i][j];
            }
      }
    });
  }

  // A number of a channel of the lane's pixel j: read, or written if the image has it.
  __device__ __forceinline__ acc load(const AnyImage<acc>& image, int channel, int j) const {
    return image.load(image.at(b, y[j], x[j]) + channel * image.channel_stride);
  }
  __device__ __forceinline__ void store(const AnyImage<acc>& image, int channel, int j, acc value) const {
    if (exists[j]) image.store(image.at(b, y[j], x[j]) + channel * image.channel_stride, value);
  }

  // sums [9,kRows] of x - own centre become relative to each candidate. With `total`, adds to it the features' and the
  // positions' part of the sum of weight * score: with S and s a candidate's sums of x and weights, and D its
  // difference, D . S - |D|^2 s / 2 is half of it.
  __device__ __forceinline__ void make_relative(int first, acc* total) {
    const int k = lane() % kOthers, count = chunk(first);
    acc* sum = own.sums + candidate_of(k) * kRows;
    if (first == 0 && lane() < kCandidates) own.mass[lane()] = own.sums[lane() * kRows];
    __syncwarp();
    const acc mass = own.mass[candidate_of(k)];
#pragma unroll 1
    for (int d = lane() / kOthers; d < count; d += 32 / kOthers) {
      if (first + d == 0) continue;
      const int position = first + d - 1 - job.channels;
      const acc apart = position < 0 ? own.coefficient[d * kOthers + k] : own.apart[position * kOthers + k];
      if (total) total[position < 0 ? 0 : 1] += apart * (sum[d] - acc(0.5) * apart * mass);
      sum[d] -= apart * mass;
    }
  }

 private:
  int64_t there_ = -1;

  __device__ __forceinline__ void enter(const Clusters<acc>* clusters, int first, acc& lengths,
                                        acc (&squares)[kPerLane]) {
    __syncwarp();
    prepare(clusters, first, chunk(first), lengths);
    __syncwarp();
    stage(first, chunk(first), squares);
    __syncwarp();
  }

  // coefficient, base and apart of `count` rows: lane / 8 and every fourth row, for one candidate.
  __device__ __forceinline__ void prepare(const Clusters<acc>* clusters, int first, int count, acc& lengths) {
    const int channels = job.channels, k = lane() % kOthers, other = candidate_of(k);
#pragma unroll 1
    for (int d = lane() / kOthers; d < count; d += 32 / kOthers) {
      const int r = first + d;
      acc base = 0, difference = 0, coefficient = 0;
      if (r > 0 && r <= channels) {
        if (clusters) base = clusters->centers[cell() * channels + r - 1];
        if (there_ >= 0) coefficient = difference = clusters->centers[there_ * channels + r - 1] - base;
      } else if (r > channels) {
        const int axis = r - 1 - channels;
        const int here = axis == 0 ? row : column, there = here + (axis == 0 ? other / 3 : other % 3) - 1;
        if (clusters) base = clusters->positions[cell() * 2 + axis] - job.plan.template middle<acc>(axis, here);
        if (there_ >= 0) {
          const acc between =
              acc((there - here) * job.plan.cell) + acc(job.plan.size(axis, there) - job.plan.size(axis, here)) / 2;
          difference =
              clusters->positions[there_ * 2 + axis] - job.plan.template middle<acc>(axis, there) - base + between;
        }
        coefficient = metric.kappa2 * difference;
        own.apart[axis * kOthers + k] = difference;
      }
      lengths += difference * coefficient;
      own.coefficient[d * kOthers + k] = coefficient;
      if (k == 0) own.base[d] = base;
    }
  }

  // Rows of x: 1, features, positions from the middle of the cell, relative to `base`; 0 for pixels that take no part.
  __device__ __forceinline__ void stage(int first, int count, acc (&squares)[kPerLane]) {
    const int ones = first == 0, left = job.channels + 1 - first;
    const int features = left > count ? count - ones : left > 0 ? left - ones : 0;
    if (ones)
      for (int j = 0; j < kPerLane; ++j) own.x[lane() + 32 * j] = acc(used[j]);
    stage_channels(job.features, first + ones - 1, features, own.base + ones, own.x + ones * kPitch, squares);
#pragma unroll 1
    for (int d = ones + features; d < count; ++d) {
      const int axis = first + d - 1 - job.channels, at = axis == 0 ? row : column;
      for (int j = 0; j < kPerLane; ++j) {
        const acc from_middle =
            acc((axis == 0 ? y[j] : x[j]) - at * job.plan.cell) - acc(job.plan.size(axis, at) - 1) / 2;
        own.x[d * kPitch + lane() + 32 * j] = used[j] ? from_middle - own.base[d] : acc(0);
      }
    }
  }
};

}  // namespace dhvt
