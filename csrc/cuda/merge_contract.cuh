// A wide round's chains in their order, and the graph between what they become.
#pragma once

#include <bit>

#include "cuda/block.cuh"
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
    return {lists + b * (leaves / 2), neighbours + b * WideRound<T>::most_neighbours(leaves), leaves};
  }
  template <typename Body>
  __device__ void for_neighbours(int32_t v, const Body& body) const {
    const NeighbourList list = lists[v];
    for (uint32_t j = list.begin; j != list.begin + uint32_t(list.size); ++j) {
      const Neighbour neighbour = neighbours[j];
      if (neighbour.vertex >= 0) body(neighbour.vertex, neighbour.length);
    }
  }
  __device__ int32_t degree(int32_t v) const { return lists[v].size; }
};

// What one thread sorts alone: chains of so many members and neighbours at most.
constexpr int32_t kFewMembers = 32;
constexpr int32_t kFewNeighbours = 96;

// A block's tables of its chains, and memory to sort in.
struct ContractTables {
  int32_t scratch[33];
  int32_t waiting, queue[kThreads];           // chains with many members or neighbours
  int32_t first[kThreads + 1];                // member of each chain, among all chains' members
  int32_t begin[kThreads], listed[kThreads];  // of its neighbours, among the block's; how many, -1 for such chains
  uint32_t base;                              // of the block's neighbours
  int32_t count;
};
constexpr size_t kStagedBytes = 16 << 10;
constexpr size_t kTablesBytes = (sizeof(ContractTables) + 15) / 16 * 16;
constexpr size_t kContractBytes = kTablesBytes + kStagedBytes;

// The last of ordered numbers [size <= kThreads] that is not above x; the first one is not.
__device__ __forceinline__ int last_upto(const int32_t* numbers, int size, int32_t x) {
  int i = 0;
  for (int step = kThreads / 2; step > 0; step /= 2)
    if (i + step < size && numbers[i + step] <= x) i += step;
  return i;
}

// Sorts items [size] in global memory by their keys: as many at a time as fit in shared memory, and what lies further
// apart where it is.
template <typename Item, typename Key>
__device__ void sort_items(Item* items, int32_t size, const Key& key) {
  using Staged = decltype(key(items[0]));
  constexpr int32_t kMost = int32_t(std::bit_floor(kStagedBytes / sizeof(Staged)));
  Staged* const staged = reinterpret_cast<Staged*>(shared_memory<unsigned char>() + kTablesBytes);
  const auto less = [](const Staged& a, const Staged& b) { return a < b; };
  for (int64_t half = kMost / 2; half == kMost / 2 || half < size; half *= 2) {
    for (int64_t stride = half; stride >= kMost; stride /= 2)
      sort_step(items, size, stride, stride == half, stride,
                [&](const Item& a, const Item& b) { return key(a) < key(b); });
    for (int32_t first = 0; first < size; first += kMost) {
      const int32_t here = min(size - first, kMost);
      each(here, [&](int64_t i) { staged[i] = key(items[first + i]); });
      __syncthreads();
      if (half < kMost) sort_block(staged, here, less);
      for (int64_t stride = half < kMost ? 0 : kMost / 2; stride > 0; stride /= 2)
        sort_step(staged, here, stride, false, stride / 2, less);
      __syncthreads();
      each(here, [&](int64_t i) { items[first + i] = staged[i].item; });
      __syncthreads();
    }
  }
}

struct NeighbourKey {
  Neighbour item;
  __device__ bool operator<(const NeighbourKey& other) const { return item.vertex < other.item.vertex; }
};

// What threads and blocks do for the chains of an image.
template <typename T, typename Graph>
struct Contraction {
  using Bits = typename WideRound<T>::Bits;
  WideRound<T> round;
  Graph graph;

  struct Chain {
    int32_t* member;      // vertices
    int32_t first, size;  // of the members
    int32_t number;

    __device__ Chain(const WideRound<T>& round, int32_t first_, int32_t past, int64_t number_)
        : member(round.members + first_), first(first_), size(past - first_), number(int32_t(number_)) {}
  };

  __device__ Chain chain(int64_t number) const { return {round, round.begin[number], round.begin[number + 1], number}; }

  // Neighbours that the members have outside, at most: each merge makes an edge an inner one.
  static __device__ int32_t room(int32_t degrees, int32_t size) { return degrees - 2 * (size - 1); }

  // Sorts the members of a chain that is not too long, by one thread. Returns the room for its neighbours, -1 if it is.
  __device__ int32_t arrange(const Chain& chain) const {
    if (chain.size > kFewMembers) return -1;
    int32_t degrees = 0;
    for (int32_t i = 0; i < chain.size; ++i) degrees += graph.degree(chain.member[i]);
    if (degrees > kFewNeighbours) return -1;
    for (int32_t i = 2; i < chain.size; ++i) {
      const int32_t vertex = chain.member[i];
      int32_t to = i;
      for (; to > 1 && round.earlier(vertex, chain.member[to - 1]); --to) chain.member[to] = chain.member[to - 1];
      chain.member[to] = vertex;
    }
    for (int32_t i = 0; i < chain.size; ++i) round.place[chain.member[i]] = i;
    return room(degrees, chain.size);
  }

  // Of member i: outside(chain, length) for each neighbour that is no member; writes the length of the boundary to
  // those that merged before.
  template <typename Outside>
  __device__ void split(const Chain& chain, int32_t i, const Outside& outside) const {
    uint32_t inner = 0;
    graph.for_neighbours(chain.member[i], [&](int32_t v, uint32_t length) {
      const int32_t target = round.target[v];
      if (target != chain.number)
        outside(Neighbour{target, length});
      else if (round.place[v] < i)
        inner += length;
    });
    round.inner[chain.first + i] = inner;
  }

  // A chain of any length, by a block.
  __device__ void contract(const Chain& chain, ContractTables& tables) const {
    struct MemberKey {
      Bits distance;
      int32_t low, high, item;
      __device__ bool operator<(const MemberKey& other) const {
        if (distance != other.distance) return distance < other.distance;
        return low != other.low ? low < other.low : high < other.high;
      }
    };
    sort_items(chain.member + 1, chain.size - 1, [&](int32_t v) {
      const int32_t other = round.neighbour[v];
      return MemberKey{round.best[v], min(v, other), max(v, other), v};
    });
    int32_t degrees = 0, total;
    each(chain.size, [&](int64_t i) {
      round.place[chain.member[i]] = int32_t(i);
      degrees += graph.degree(chain.member[i]);
    });
    block_prefix(degrees, tables.scratch, total);
    if (threadIdx.x == 0) {
      tables.base = atomicAdd(&round.next_state->listed, uint32_t(room(total, chain.size)));
      tables.count = 0;
    }
    __syncthreads();
    Neighbour* const out = round.next_neighbours + tables.base;
    each(chain.size, [&](int64_t i) {
      split(chain, int32_t(i), [&](Neighbour neighbour) { out[atomicAdd(&tables.count, 1)] = neighbour; });
    });
    __syncthreads();
    const int32_t listed = sum_parallel(out, tables.count, tables.scratch);
    if (threadIdx.x == 0) round.next_lists[chain.number] = {tables.base, listed};
    __syncthreads();
  }

  // Leaves of each vertex one neighbour with the sum of the lengths; returns how many. By a block.
  static __device__ int32_t sum_parallel(Neighbour* neighbours, int32_t size, int32_t* scratch) {
    sort_items(neighbours, size, [](const Neighbour& neighbour) { return NeighbourKey{neighbour}; });
    int32_t kept = 0;
    for (int32_t base = 0; base < size; base += int32_t(blockDim.x)) {
      const int32_t i = base + int32_t(threadIdx.x);
      const bool first = i < size && (i == 0 || neighbours[i - 1].vertex != neighbours[i].vertex);
      Neighbour sum{0, 0};
      if (first) {
        sum = neighbours[i];
        for (int32_t j = i + 1; j < size && neighbours[j].vertex == sum.vertex; ++j) sum.length += neighbours[j].length;
      }
      int32_t total;
      const int32_t place = kept + block_prefix(first, scratch, total);  // at most i, and all have read
      if (first) neighbours[place] = sum;
      kept += total;
      __syncthreads();
    }
    return kept;
  }
};

// A block takes 256 chains: a thread sorts the members of each; a thread per member finds the length of the boundary
// that its merge closes and appends its neighbours outside to the chain's; of parallel edges among these the first
// takes the lengths of the others, which are none any more (vertex -1). Chains with many members or neighbours are the
// whole block's, one after the other. In which order a list is and where it lies depends on that of the threads;
// nothing depends on it.
template <typename T, typename Graph>
__global__ void __launch_bounds__(kThreads) contract_kernel(WideRound<T> first, Graph graph, int64_t batch) {
  ContractTables& tables = *shared_memory<ContractTables>();
  const int64_t blocks = first.blocks_of_chains(kThreads);
  for (int64_t task = blockIdx.x; task < batch * blocks; task += gridDim.x) {
    const int64_t b = task / blocks, begin = task % blocks * kThreads;
    const Contraction<T, Graph> contraction{first.of_image(b), graph.of_image(b)};
    const WideRound<T>& round = contraction.round;
    const int own = int(threadIdx.x), chains = int(min(int64_t(kThreads), round.state->chains - begin));
    if (chains <= 0) continue;
    const auto chain = [&](int k) {
      return typename Contraction<T, Graph>::Chain(round, tables.first[k], tables.first[k + 1], begin + k);
    };
    each(chains + 1, [&](int64_t k) { tables.first[k] = round.begin[begin + k]; });
    if (own == 0) tables.waiting = 0;
    __syncthreads();
    const int32_t room = own < chains ? contraction.arrange(chain(own)) : 0;
    if (room < 0) tables.queue[atomicAdd(&tables.waiting, 1)] = own;
    int32_t total;
    tables.begin[own] = block_prefix(max(room, 0), tables.scratch, total);
    tables.listed[own] = room < 0 ? -1 : 0;
    if (own == 0) tables.base = atomicAdd(&round.next_state->listed, uint32_t(total));
    __syncthreads();
    Neighbour* const out = round.next_neighbours + tables.base;
    const int32_t members = tables.first[chains] - tables.first[0];
    each(members, [&](int64_t i) {
      const int32_t place = tables.first[0] + int32_t(i);
      const int k = last_upto(tables.first, chains, place);
      if (tables.listed[k] < 0) return;
      contraction.split(chain(k), place - tables.first[k], [&](Neighbour neighbour) {
        out[tables.begin[k] + atomicAdd(&tables.listed[k], 1)] = neighbour;
      });
    });
    __syncthreads();
    each(total, [&](int64_t i) {
      const int k = last_upto(tables.begin, kThreads, int32_t(i));
      if (i >= tables.begin[k] + tables.listed[k]) return;
      const int32_t vertex = out[i].vertex;
      int32_t same = tables.begin[k];
      while (out[same].vertex != vertex) ++same;
      if (same == i) return;
      atomicAdd(&out[same].length, out[i].length);
      out[i] = {-1, 0};
    });
    if (room >= 0 && own < chains)
      round.next_lists[begin + own] = {tables.base + uint32_t(tables.begin[own]), tables.listed[own]};
    __syncthreads();
    const int32_t waiting = tables.waiting;
    for (int32_t i = 0; i < waiting; ++i) contraction.contract(contraction.chain(begin + tables.queue[i]), tables);
    __syncthreads();
  }
}

}  // namespace dhvt
