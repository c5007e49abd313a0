// A wide round's new nodes.
#pragma once

#include "cuda/block.cuh"
#include "cuda/merge_chain.cuh"
#include "cuda/merge_wide.cuh"

namespace dhvt {

// A chain of a wide round, for merge_chain.cuh.
template <typename T, bool kLeaves_>
struct WideChain {
  static constexpr bool kLeaves = kLeaves_;
  static constexpr int kAhead = kLeaves ? 8 : 4;
  const WideRound<T>& round;
  const int32_t* vertex;
  int32_t first, merges;
  int64_t offset, created;  // node of vertex 0; that the first merge makes

  __device__ int64_t single(int32_t i) const { return offset + vertex[i == 0 ? 0 : i + 1]; }
  __device__ int64_t other() const { return offset + vertex[1]; }
  __device__ int64_t merged() const { return created; }
  __device__ uint32_t inner(int32_t i) const { return round.inner[first + i + 1]; }
};

constexpr int kChainsPerBlock = 64;

// A thread takes a chain and one channel, or what is not a channel. Reads and writes 8 C + 36 bytes of each node.
template <typename T, bool kLeaves>
__global__ void __launch_bounds__(kThreads, 4) join_kernel(WideRound<T> first, int32_t number_of_round, int64_t batch) {
  const int64_t blocks = first.blocks_of_chains(kChainsPerBlock);
  const uint32_t channels = uint32_t(first.task.channels);
  for (int64_t task = blockIdx.x; task < batch * blocks; task += gridDim.x) {
    const WideRound<T> round = first.of_image(task / blocks);
    const WideState state = *round.state;
    const int64_t begin = task % blocks * kChainsPerBlock;
    const int64_t chains = min(int64_t(kChainsPerBlock), state.chains - begin);
    const auto chain = [&](uint32_t i) {
      const int64_t number = begin + i;
      const int32_t at = round.begin[number], size = round.begin[number + 1] - at;
      const int64_t created = int64_t(state.first) + state.vertices + at - number;
      return WideChain<T, kLeaves>{round, round.members + at, at, size - 1, state.first, created};
    };
    each(chains * (channels + 1), [&](int64_t i) {
      if (i < chains * channels)
        join_channel(round.task, chain(uint32_t(i) / channels), uint32_t(i) % channels);
      else
        join_rest(round.task, chain(uint32_t(i - chains * channels)), number_of_round);
    });
  }
}

}  // namespace dhvt
