// What is summed over a segment, for segment_reduce.cuh. An operator reads pixels, its output joins tiles:
//
//   State: of some pixels of a segment; start(), add a pixel, join the state of others
//   Part:  of a tile, in memory
//   Total: of the segment: take a part, write
// Channels are those of a state: [0, channels()). `shift` is a value of the segment in the tile, the same for all of
// it.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/warp.cuh"
#include "segment_moments.h"
#include "segment_pool.h"

namespace dhvt {

template <typename T>
__device__ __forceinline__ T from_below(T v, int lanes) {
  return __shfl_down_sync(kAllLanes, v, lanes);
}

// The sum of every channel, and of the weights.
template <typename acc_>
struct SumOutput {
  using acc = acc_;
  using Part = acc;
  using Total = acc;
  static constexpr bool kShape = false;

  int64_t channels;
  acc* sums;  // [B,K,C]
  acc* mass;  // [B,K]

  __device__ Total total() const { return 0; }
  __device__ void take(Total& total, const Part& part, int32_t, int32_t) const { total += part; }
  __device__ void write(int64_t segment, int64_t c, const Total& total) const {
    if (c < channels)
      sums[segment * channels + c] = total;
    else
      mass[segment] = total;
  }
};

template <typename scalar_t>
struct SumOperator {
  using scalar = scalar_t;
  using acc = acc_t<scalar_t>;
  using Output = SumOutput<acc>;
  using State = acc;
  static constexpr bool kShift = false, kWeights = true;

  ImageView<const scalar_t> view;
  const acc* weights;  // [B,H,W], or null: 1
  Output out;

  int64_t channels() const { return view.channels + 1; }
  __device__ State start() const { return 0; }
  __device__ void add(State& state, acc v, acc, int32_t) const { state += v; }
  __device__ static void join(State& state, const State& other) { state += other; }
  __device__ static State below(const State& state, int lanes) { return from_below(state, lanes); }
  __device__ acc part(const State& state, acc, int32_t) const { return state; }
};

// The maximum of every channel and the first pixel that has it; -1 where there is none.
template <typename acc>
struct Maximum {
  acc value;
  int32_t index;

  __device__ void join(const Maximum& other) {
    if (other.index >= 0 && comes_before(other.value, other.index, value, index)) *this = other;
  }
};

template <typename scalar_t>
struct MaxOutput {
  using acc = acc_t<scalar_t>;
  using Part = Maximum<acc>;
  using Total = Maximum<acc>;
  static constexpr bool kShape = false;

  int64_t channels;
  scalar_t* values;  // [B,K,C]
  int32_t* index;    // [B,K,C]

  __device__ Total total() const { return {0, -1}; }
  __device__ void take(Total& total, const Part& part, int32_t, int32_t) const { total.join(part); }
  __device__ void write(int64_t segment, int64_t c, const Total& total) const {
    values[segment * channels + c] = static_cast<scalar_t>(total.value);
    index[segment * channels + c] = total.index;
  }
};

template <typename scalar_t>
struct MaxOperator {
  using scalar = scalar_t;
  using acc = acc_t<scalar_t>;
  using Output = MaxOutput<scalar_t>;
  using State = Maximum<acc>;
  static constexpr bool kShift = false, kWeights = false;

  ImageView<const scalar_t> view;
  Output out;

  int64_t channels() const { return view.channels; }
  __device__ State start() const { return {0, -1}; }
  __device__ void add(State& state, acc v, acc, int32_t pixel) const {
    if (takes_over(v, state.value, state.index)) state = {v, pixel};
  }
  __device__ static void join(State& state, const State& other) { state.join(other); }
  __device__ static State below(const State& state, int lanes) {
    return {from_below(state.value, lanes), from_below(state.index, lanes)};
  }
  __device__ State part(const State& state, acc, int32_t) const { return state; }
};

// Mean and squared deviations: sums relative to the shift in a tile, the pairwise formula between tiles.
template <typename acc_>
struct MomentsOutput {
  using acc = acc_;
  struct alignas(2 * sizeof(acc)) Part {
    acc mean, m2;
  };
  using Total = Part;
  static constexpr bool kShape = true;

  int64_t channels;
  acc* mean;          // [B,K,C]
  acc* m2;            // [B,K,C]
  int32_t* count;     // [B,K]
  acc* centroid;      // [B,K,2]
  int32_t* box;       // [B,K,4]
  int32_t* boundary;  // [B,K]

  __device__ Total total() const { return {0, 0}; }
  __device__ void take(Total& total, const Part& part, int32_t before, int32_t n) const {
    chan_merge(static_cast<acc>(before), total.mean, total.m2, static_cast<acc>(n), part.mean, part.m2);
  }
  __device__ void write(int64_t segment, int64_t c, const Total& total) const {
    mean[segment * channels + c] = total.mean;
    m2[segment * channels + c] = total.m2;
  }
};

template <typename scalar_t>
struct MomentsOperator {
  using scalar = scalar_t;
  using acc = acc_t<scalar_t>;
  using Output = MomentsOutput<acc>;
  struct State {
    acc sum, squares;
  };
  static constexpr bool kShift = true, kWeights = false;

  ImageView<const scalar_t> view;
  Output out;

  int64_t channels() const { return view.channels; }
  __device__ State start() const { return {0, 0}; }
  __device__ void add(State& state, acc v, acc shift, int32_t) const {
    const acc d = v - shift;
    state.sum += d;
    state.squares += d * d;
  }
  __device__ static void join(State& state, const State& other) {
    state.sum += other.sum;
    state.squares += other.squares;
  }
  __device__ static State below(const State& state, int lanes) {
    return {from_below(state.sum, lanes), from_below(state.squares, lanes)};
  }
  __device__ typename Output::Part part(const State& state, acc shift, int32_t n) const {
    const acc offset = state.sum / static_cast<acc>(n), rest = state.squares - state.sum * offset;
    return {shift + offset, rest < 0 ? acc(0) : rest};  // NaN stays
  }
};

}  // namespace dhvt
