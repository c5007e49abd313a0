// A wide round's last steps: chains in their order, the graph between what they become, and the new nodes.
#pragma once

#include "cuda/block.cuh"
#include "cuda/merge_chain.cuh"
#include "cuda/merge_link.cuh"

namespace dhvt {

// The neighbours of a round that are listed.
template <typename T>
struct ListedNeighbours {
  static constexpr bool kLeaves = false;
  const NeighbourList* lists;
  const Neighbour* neighbours;
  int64_t leaves;

  __device__ ListedNeighbours of_image(int64_t b) const {
    return {lists + b * leaves, neighbours + b * WideRound<T>::most_neighbours(leaves), leaves};
  }
  template <typename Body>
  __device__ void for_neighbours(int32_t v, const Body& body) const {
    const NeighbourList list = lists[v];
    for (uint32_t j = list.begin; j != list.begin + uint32_t(list.size); ++j) {
      const Neighbour neighbour = neighbours[j];
      body(neighbour.vertex, neighbour.length);
    }
  }
  __device__ int32_t degree(int32_t v) const { return lists[v].size; }
};

// What one thread does alone: chains of so many members and neighbours at most.
constexpr int32_t kFewMembers = 32;
constexpr uint32_t kFewNeighbours = 96;

template <typename T, typename Graph>
struct ChainStep {
  WideRound<T> round;
  Graph graph;

  // A chain's members.
  struct Members {
    int32_t* vertex;
    int32_t first, size;  // place of the first among all chains' members; number
    int32_t target;       // the vertex that they become

    __device__ Members(const WideRound<T>& round, int64_t number)
        : vertex(round.members + round.begin[number]),
          first(round.begin[number]),
          size(round.begin[number + 1] - first),
          target(first + size - int32_t(number) - 2) {}
  };

  // Neighbours that the members have outside, at most: each merge makes an edge an inner one.
  __device__ uint32_t room(uint32_t degrees, int32_t size) const { return degrees - 2 * uint32_t(size - 1); }

  // Member i's neighbours: outside(target, length) for each that is no member; the length of the boundary to those that
  // merged before.
  template <typename Outside>
  __device__ uint32_t split(const Members& members, int32_t i, const Outside& outside) const {
    uint32_t inner = 0;
    graph.for_neighbours(members.vertex[i], [&](int32_t v, uint32_t length) {
      const int32_t target = round.target[v];
      if (target != members.target)
        outside(target, length);
      else if (round.place[v] < i)
        inner += length;
    });
    return inner;
  }

  // Only the last node of a chain is a vertex of the next round.
  __device__ void list(const Members& members, int32_t merge, NeighbourList last) const {
    const int32_t left = members.size - 2 - merge;
    round.next_lists[members.target - left] = left == 0 ? last : NeighbourList{0, 0};
  }

  // By one thread.
  __device__ void few(const Members& members, uint32_t begin) const {
    for (int32_t i = 2; i < members.size; ++i) {
      const int32_t vertex = members.vertex[i];
      int32_t to = i;
      for (; to > 1 && round.earlier(vertex, members.vertex[to - 1]); --to) members.vertex[to] = members.vertex[to - 1];
      members.vertex[to] = vertex;
    }
    for (int32_t i = 0; i < members.size; ++i) round.place[members.vertex[i]] = i;
    Neighbour* const out = round.next_neighbours + begin;
    int32_t size = 0;
    for (int32_t i = 0; i < members.size; ++i) {
      round.inner[members.first + i] = split(members, i, [&](int32_t target, uint32_t length) {
        for (int32_t j = size - 1; j >= 0; --j) {
          if (out[j].vertex != target) continue;
          out[j].length += length;
          return;
        }
        out[size++] = {target, length};
      });
    }
    for (int32_t merge = 0; merge < members.size - 1; ++merge) list(members, merge, {begin, size});
  }

  // By a block; scratch [33] in shared memory, and one more.
  __device__ void many(const Members& members, int32_t* scratch) const {
    int32_t& count = scratch[33];
    sort_block(members.vertex + 1, members.size - 1, [&](int32_t a, int32_t b) { return round.earlier(a, b); });
    uint32_t degrees = 0;
    each(members.size, [&](int64_t i) {
      round.place[members.vertex[i]] = int32_t(i);
      degrees += uint32_t(graph.degree(members.vertex[i]));
    });
    int32_t total;
    block_prefix(int32_t(degrees), scratch, total);
    if (threadIdx.x == 0) {
      scratch[0] = int32_t(atomicAdd(&round.next_state->listed, room(uint32_t(total), members.size)));
      count = 0;
    }
    __syncthreads();
    const uint32_t begin = uint32_t(scratch[0]);
    Neighbour* const out = round.next_neighbours + begin;
    each(members.size, [&](int64_t i) {
      round.inner[members.first + i] = split(members, int32_t(i), [&](int32_t target, uint32_t length) {
        out[uint32_t(atomicAdd(&count, 1))] = {target, length};
      });
    });
    __syncthreads();
    const int32_t edges = count, size = sum_parallel(out, edges, scratch);
    each(members.size - 1, [&](int64_t merge) { list(members, int32_t(merge), {begin, size}); });
  }

  // Leaves of each vertex one neighbour with the sum of the lengths; returns how many.
  __device__ static int32_t sum_parallel(Neighbour* edges, int32_t size, int32_t* scratch) {
    sort_block(edges, size, [](const Neighbour& a, const Neighbour& b) { return a.vertex < b.vertex; });
    int32_t kept = 0;
    for (int32_t base = 0; base < size; base += int32_t(blockDim.x)) {
      const int32_t i = base + int32_t(threadIdx.x);
      const bool first = i < size && (i == 0 || edges[i - 1].vertex != edges[i].vertex);
      Neighbour sum{0, 0};
      if (first) {
        sum = edges[i];
        for (int32_t j = i + 1; j < size && edges[j].vertex == sum.vertex; ++j) sum.length += edges[j].length;
      }
      int32_t total;
      const int32_t place = kept + block_prefix(first, scratch, total);  // at most i, and all have read
      if (first) edges[place] = sum;
      kept += total;
      __syncthreads();
    }
    return kept;
  }
};

constexpr size_t kContractBytes = (34 + 1 + kThreads) * sizeof(int32_t);

// A thread takes a chain: it sorts the members, finds the length of the boundary that each merge closes, and lists the
// neighbours of the last one, parallel edges summed. Chains with many members or neighbours are the whole block's, one
// after the other. Where a list lies depends on the order of the threads; nothing depends on where it lies.
template <typename T, typename Graph>
__global__ void __launch_bounds__(kThreads) contract_kernel(WideRound<T> first, Graph graph, int64_t batch) {
  using Step = ChainStep<T, Graph>;
  int32_t* const scratch = shared_memory<int32_t>();
  int32_t& waiting = scratch[34];
  int32_t* const queue = scratch + 35;  // [kThreads]
  const int64_t blocks = first.blocks_of_chains(kThreads);
  for (int64_t task = blockIdx.x; task < batch * blocks; task += gridDim.x) {
    const int64_t b = task / blocks, number = task % blocks * kThreads + threadIdx.x;
    const Step step{first.of_image(b), graph.of_image(b)};
    const int32_t chains = step.round.state->chains;
    if (task % blocks * kThreads >= chains) continue;
    if (threadIdx.x == 0) waiting = 0;
    __syncthreads();
    uint32_t room = 0;
    bool few = false;
    if (number < chains) {
      const typename Step::Members members(step.round, number);
      uint32_t degrees = 0;
      few = members.size <= kFewMembers;
      for (int32_t i = 0; few && i < members.size; ++i) {
        degrees += uint32_t(step.graph.degree(members.vertex[i]));
        few = degrees <= kFewNeighbours;
      }
      if (few)
        room = step.room(degrees, members.size);
      else
        queue[atomicAdd(&waiting, 1)] = int32_t(number);
    }
    const uint32_t upto = uint32_t(warp_scan(int32_t(room))), all = __shfl_sync(kAllLanes, upto, 31);
    uint32_t at = 0;
    if (lane() == 0) at = atomicAdd(&step.round.next_state->listed, all);
    at = __shfl_sync(kAllLanes, at, 0) + upto - room;
    if (few) step.few(typename Step::Members(step.round, number), at);
    __syncthreads();
    for (int32_t i = 0; i < waiting; ++i) {
      step.many(typename Step::Members(step.round, queue[i]), scratch);
      __syncthreads();
    }
  }
}

// A chain of a wide round, for merge_chain.cuh.
template <typename T, bool kLeaves_>
struct WideChain {
  static constexpr bool kLeaves = kLeaves_;
  const WideRound<T>& round;
  const int32_t* vertex;
  int32_t first, size;
  int64_t offset, created;  // node of vertex 0; that the first merge makes

  __device__ int64_t single(int32_t i) const { return offset + vertex[i == 0 ? 0 : i + 1]; }
  __device__ int64_t other() const { return offset + vertex[1]; }
  __device__ int64_t merged(int32_t i) const { return created + i; }
  __device__ uint32_t inner(int32_t i) const { return round.inner[first + i + 1]; }
  __device__ bool more(int32_t i) const { return i + 2 < size; }
};

constexpr int kChainsPerBlock = 64;

// A thread takes a chain and one channel, or what is not a channel. Reads and writes 8 C + 36 bytes of each node.
template <typename T, bool kLeaves>
__global__ void __launch_bounds__(kThreads) join_kernel(WideRound<T> first, int32_t number_of_round, int64_t batch) {
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
      return WideChain<T, kLeaves>{round, round.members + at, at,
                                   size,  state.first,        int64_t(state.first) + state.vertices + at - number};
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
