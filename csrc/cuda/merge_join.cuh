// A wide round's new nodes.
#pragma once

#include "cuda/block.cuh"
#include "cuda/merge_chain.cuh"
#include "cuda/merge_wide.cuh"

namespace dhvt {

// A chain of a wide round, for merge_chain.cuh.
template <typename T, typename Graph>
struct WideChain {
  static constexpr bool kLeaves = Graph::kLeaves;
  static constexpr int kAhead = kLeaves ? 8 : 4;
  const WideRound<T>& round;
  const Graph& graph;
  int32_t first, merges;
  int32_t created;  // the node that the first merge makes

  __device__ int64_t single(int32_t i) const { return node(i == 0 ? 0 : i + 1); }
  __device__ int64_t other() const { return node(1); }
  __device__ int64_t merged() const { return created; }
  __device__ uint32_t inner(int32_t i) const { return round.inner[first + i + 1]; }
  __device__ NodeShape<T> leaf(int64_t v) const { return graph.template leaf<T>(int32_t(v)); }

 private:
  __device__ int64_t node(int32_t member) const {
    const int32_t vertex = round.members[first + member];
    return kLeaves ? vertex : round.nodes[vertex];
  }
};

constexpr int kChainsPerBlock = 64;

// A thread takes a chain and one channel, or what is not a channel. Reads 8 C + 36 bytes of what merges, 4 C of a
// pixel, and writes 8 C + 40 bytes of each new node.
template <typename T, typename Graph>
__global__ void __launch_bounds__(kThreads, 4)
    join_kernel(WideRound<T> first, Graph first_graph, int32_t number_of_round, int64_t batch) {
  const int64_t blocks = first.blocks_of_chains(kChainsPerBlock);
  const uint32_t channels = uint32_t(first.task.channels);
  for (int64_t task = blockIdx.x; task < batch * blocks; task += gridDim.x) {
    const WideRound<T> round = first.of_image(task / blocks);
    const Graph graph = first_graph.of_image(task / blocks);
    const WideState state = *round.state;
    const int64_t begin = task % blocks * kChainsPerBlock;
    const int64_t chains = min(int64_t(kChainsPerBlock), state.chains - begin);
    const auto chain = [&](uint32_t i) {
      const int32_t number = int32_t(begin + i), at = round.begin[number], merges = round.begin[number + 1] - at - 1;
      return WideChain<T, Graph>{round, graph, at, merges, state.created + at - number};
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
