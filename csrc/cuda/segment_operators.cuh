// What is summed over a segment: the operators of segment_reduce.cuh.
//
//   State: of some pixels of a segment; start(), add a pixel, join the state of later pixels
//   Part:  of a tile, in memory
//   Total: of the segment; take a part, write
// Channels are those of State: [0, channels()). `shift` is a value of the segment in the tile, the same for all of
// them.
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

// The sum of every channel, and of the weights, which are 1 where there are none.
template <typename scalar_t>
struct SumOperator {
  using acc = acc_t<scalar_t>;
  using scalar = scalar_t;
  using State = acc;
  using Part = acc;
  using Total = acc;
  static constexpr bool kShape = false, kShift = false, kWeights = true;

  ImageView<const scalar_t> view;
  const acc* weights;  // [B,H,W] or null
  acc* sums;           // [B,K,C]
  acc* mass;           // [B,K]

  __host__ __device__ int64_t channels() const { return view.channels + 1; }
  __device__ State start() const { return 0; }
  __device__ void add(State& state, acc v, acc, int64_t) const { state += v; }
  __device__ static void join(State& state, const State& later) { state += later; }
  __device__ static State below(const State& state, int lanes) { return from_below(state, lanes); }
  __device__ Part part(const State& state, acc, int32_t) const { return state; }
  __device__ Total total() const { return 0; }
  __device__ void take(Total& total, const Part& part, int32_t, int32_t) const { total += part; }
  __device__ void write(int64_t segment, int64_t c, const Total& total) const {
    if (c < view.channels)
      sums[segment * view.channels + c] = total;
    else
      mass[segment] = total;
  }
};

// The maximum of every channel and the first pixel that has it.
template <typename scalar_t>
struct MaxOperator {
  using acc = acc_t<scalar_t>;
  using scalar = scalar_t;
  struct State {
    acc value;
    int32_t index;
  };
  using Part = State;
  using Total = State;
  static constexpr bool kShape = false, kShift = false, kWeights = false;

  ImageView<const scalar_t> view;
  scalar_t* values;  // [B,K,C]
  int32_t* index;    // [B,K,C]

  __host__ __device__ int64_t channels() const { return view.channels; }
  __device__ State start() const { return {0, -1}; }
  __device__ void add(State& state, acc v, acc, int64_t pixel) const { join(state, {v, int32_t(pixel)}); }
  __device__ static void join(State& state, const State& other) {
    if (other.index >= 0 && comes_before(other.value, other.index, state.value, state.index)) state = other;
  }
  __device__ static State below(const State& state, int lanes) {
    return {from_below(state.value, lanes), from_below(state.index, lanes)};
  }
  __device__ Part part(const State& state, acc, int32_t) const { return state; }
  __device__ Total total() const { return start(); }
  __device__ void take(Total& total, const Part& part, int32_t, int32_t) const { join(total, part); }
  __device__ void write(int64_t segment, int64_t c, const Total& total) const {
    values[segment * view.channels + c] = static_cast<scalar_t>(total.value);
    index[segment * view.channels + c] = total.index;
  }
};

// Mean and squared deviations: sums relative to the shift in a tile, the pairwise formula between tiles.
template <typename scalar_t>
struct MomentsOperator {
  using acc = acc_t<scalar_t>;
  using scalar = scalar_t;
  struct State {
    acc sum, squares;
  };
  struct alignas(2 * sizeof(acc)) Part {
    acc mean, m2;
  };
  using Total = Part;
  static constexpr bool kShape = true, kShift = true, kWeights = false;

  ImageView<const scalar_t> view;
  acc* mean;          // [B,K,C]
  acc* m2;            // [B,K,C]
  int32_t* count;     // [B,K]
  acc* centroid;      // [B,K,2]
  int32_t* box;       // [B,K,4]
  int32_t* boundary;  // [B,K]

  __host__ __device__ int64_t channels() const { return view.channels; }
  __device__ State start() const { return {0, 0}; }
  __device__ void add(State& state, acc v, acc shift, int64_t) const {
    const acc d = v - shift;
    state.sum += d;
    state.squares += d * d;
  }
  __device__ static void join(State& state, const State& later) {
    state.sum += later.sum;
    state.squares += later.squares;
  }
  __device__ static State below(const State& state, int lanes) {
    return {from_below(state.sum, lanes), from_below(state.squares, lanes)};
  }
  __device__ Part part(const State& state, acc shift, int32_t n) const {
    const acc offset = state.sum / static_cast<acc>(n), rest = state.squares - state.sum * offset;
    return {shift + offset, rest < 0 ? acc(0) : rest};  // NaN stays
  }
  __device__ Total total() const { return {0, 0}; }
  __device__ void take(Total& total, const Part& part, int32_t before, int32_t n) const {
    chan_merge(static_cast<acc>(before), total.mean, total.m2, static_cast<acc>(n), part.mean, part.m2);
  }
  __device__ void write(int64_t segment, int64_t c, const Total& total) const {
    mean[segment * view.channels + c] = total.mean;
    m2[segment * view.channels + c] = total.m2;
  }
};

}  // namespace dhvt
