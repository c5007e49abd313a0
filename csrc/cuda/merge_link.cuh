// A wide round's steps from the picks to the chains, whose merges are numbered.
#pragma once

#include "cuda/merge_wide.cuh"
#include "cuda/scan.cuh"
#include "cuda/vector.cuh"

namespace dhvt {

// body(image's round, first vertex of a tile, past its last one) for each tile of a batch, whole blocks.
template <typename T, typename Body>
__device__ void for_tiles(const WideRound<T>& first, int64_t batch, const Body& body) {
  for (int64_t i = blockIdx.x; i < batch * first.tiles; i += gridDim.x) {
    const WideRound<T> round = first.of_image(i / first.tiles);
    const int64_t tile = i % first.tiles, begin = tile * first.tile;
    body(round, tile, begin, min(begin + first.tile, int64_t(round.state->vertices)));
  }
}

// merge_square of two nodes; where only the means count, they are read by 16 bytes where they lie so.
template <typename T>
__device__ T square_of(const MergeTask<T>& task, int64_t u, int64_t v) {
  constexpr int kParts = 16 / sizeof(T);
  const auto& node = task.node;
  const int64_t channels = task.channels;
  const T *mean_u = node.mean + u * channels, *mean_v = node.mean + v * channels;
  if (task.kind == MergeDistance::kContrast || channels % kParts != 0)
    return merge_square<T>(task.kind, task.noise, channels, mean_u, mean_v, node.m2 + u * channels,
                           node.m2 + v * channels, T(node.count[u]), T(node.count[v]));
  T square = 0;
  for (int64_t c = 0; c < channels; c += kParts) {
    const auto part_u = load_vector<kParts>(mean_u + c), part_v = load_vector<kParts>(mean_v + c);
    for (int k = 0; k < kParts; ++k) {
      const T delta = part_u.part[k] - part_v.part[k];
      square += delta * delta;
    }
  }
  return square;
}

template <typename T>
struct Pick {
  typename WideRound<T>::Bits distance;
  int32_t vertex;

  __device__ void take(const Pick& other) {
    if (other.distance < distance || (other.distance == distance && other.vertex < vertex)) *this = other;
  }
};

// A thread takes a vertex, or a warp where there are more than 32 neighbours. Reads 4 C + 4 bytes of each neighbour,
// and 8 bytes of the list.
template <typename T>
__global__ void __launch_bounds__(kThreads) pick_vertices_kernel(WideRound<T> first, int64_t batch) {
  for_tiles(first, batch, [&](const WideRound<T>& round, int64_t, int64_t begin, int64_t end) {
    const auto& task = round.task;
    const auto& node = task.node;
    const auto best_of = [&](int64_t u, const NeighbourList& list, int32_t start, int32_t step) {
      Pick<T> best{~typename WideRound<T>::Bits(0), kNoVertex};
      const int64_t a = round.nodes[u];
      for (int32_t j = start; j < list.size; j += step) {
        const Neighbour neighbour = round.neighbours[list.begin + uint32_t(j)];
        if (neighbour.vertex < 0) continue;
        const int64_t v = round.nodes[neighbour.vertex];
        const T square = square_of(task, a, v);
        const T distance =
            merge_distance_of_square<T>(task.kind, task.compactness, square, T(node.count[a]), T(node.count[v]),
                                        node.box + 4 * a, node.box + 4 * v, T(neighbour.length));
        best.take({ordered_bits(distance), neighbour.vertex});
      }
      return best;
    };
    for (int64_t base = begin + threadIdx.x - lane(); base < end; base += kThreads) {
      const int64_t u = base + lane();
      const NeighbourList list = u < end ? round.lists[u] : NeighbourList{0, 0};
      const bool many = list.size > 32;
      Pick<T> best{~typename WideRound<T>::Bits(0), kNoVertex};
      if (!many) best = best_of(u, list, 0, 1);
      for (unsigned left = __ballot_sync(kAllLanes, many); left != 0; left &= left - 1) {
        const int owner = __ffs(int(left)) - 1;
        const NeighbourList shared{__shfl_sync(kAllLanes, list.begin, owner), __shfl_sync(kAllLanes, list.size, owner)};
        Pick<T> found = best_of(base + owner, shared, lane(), 32);
        for (int bits = 16; bits > 0; bits /= 2)
          found.take(
              {__shfl_xor_sync(kAllLanes, found.distance, bits), __shfl_xor_sync(kAllLanes, found.vertex, bits)});
        if (lane() == owner) best = found;
      }
      if (u < end) round.pick(u, best.distance, best.vertex);
    }
  });
}

// The lower end of the closest pair that the picks of a vertex lead to: they end in going back and forth between its
// two ends. Ways become shorter: whatever another thread stores on them lies further on, and what the ends picked
// stays.
__device__ __forceinline__ int32_t closest_of(int32_t* ways, int32_t u) {
  volatile int32_t* up = ways;
  for (int32_t v = up[u];;) {
    const int32_t w = up[v];
    if (w == u) return min(u, v);
    up[u] = w;
    u = w;
    v = up[u];
  }
}

// A thread per vertex finds its root, and a place in the chain in whatever order.
template <typename T>
__global__ void __launch_bounds__(kThreads) find_roots_kernel(WideRound<T> first, int64_t batch) {
  for_tiles(first, batch, [&](const WideRound<T>& round, int64_t, int64_t begin, int64_t end) {
    for (int64_t u = begin + threadIdx.x; u < end; u += kThreads) {
      const int32_t root = round.picks(u) ? closest_of(round.up, int32_t(u)) : -1;
      round.root[u] = root;
      if (root >= 0) round.place[u] = root == u ? 0 : 1 + atomicAdd(&round.size[root], 1);
    }
  });
}

// The members of the chain whose root a vertex is, 0 for none.
template <typename T>
__device__ __forceinline__ int32_t members_of_root(const WideRound<T>& round, int64_t u, int64_t end) {
  return u < end && round.root[u] == u ? round.size[u] + 1 : 0;
}

constexpr size_t kScanBytes = 33 * sizeof(int32_t);

// Counts the chains and their members whose roots lie in a tile.
template <typename T>
__global__ void __launch_bounds__(kThreads) count_chains_kernel(WideRound<T> first, int64_t batch) {
  for_tiles(first, batch, [&](const WideRound<T>& round, int64_t tile, int64_t begin, int64_t end) {
    TileTotal here{0, 0}, total;
    for (int64_t u = begin + threadIdx.x; u < end; u += kThreads) {
      const int32_t members = members_of_root(round, u, end);
      here.chains += members > 0;
      here.members += members;
    }
    block_prefix(here.chains, shared_memory<int32_t>(), total.chains);
    block_prefix(here.members, shared_memory<int32_t>(), total.members);
    if (threadIdx.x == 0) round.totals[tile] = total;
  });
}

// Numbers the chains in the order of their roots, each after those of the tiles before. Each block adds up the totals
// of its image: tiles grow with the image, so that these are few.
template <typename T>
__global__ void __launch_bounds__(kThreads) number_chains_kernel(WideRound<T> first, int64_t batch) {
  int32_t* const scratch = shared_memory<int32_t>();
  for_tiles(first, batch, [&](const WideRound<T>& round, int64_t tile, int64_t begin, int64_t end) {
    TileTotal before{0, 0}, all{0, 0}, base, total;
    for (int64_t i = threadIdx.x; i < round.tiles; i += kThreads) {
      const TileTotal of_tile = round.totals[i];
      all.chains += of_tile.chains;
      all.members += of_tile.members;
      if (i < tile) before.chains += of_tile.chains, before.members += of_tile.members;
    }
    block_prefix(before.chains, scratch, base.chains);
    block_prefix(before.members, scratch, base.members);
    block_prefix(all.chains, scratch, total.chains);
    block_prefix(all.members, scratch, total.members);
    const WideState state = *round.state;
    if (tile == 0 && threadIdx.x == 0) {
      round.state->chains = total.chains;
      *round.next_state = {total.chains, 0, state.created + total.members - total.chains, 0};
      round.begin[total.chains] = total.members;
    }
    for (int64_t start = begin; start < end; start += kThreads) {
      const int64_t u = start + threadIdx.x;
      const int32_t members = members_of_root(round, u, end);
      const int32_t number = base.chains + block_prefix(members > 0, scratch, total.chains);
      const int32_t place = base.members + block_prefix(members, scratch, total.members);
      base.chains += total.chains;
      base.members += total.members;
      if (members == 0) continue;
      round.begin[number] = place;
      round.chain[u] = number;
      round.next_nodes[number] = state.created + place - number + members - 2;
    }
  });
}

// The members of each chain one beside the other, and for each vertex its chain.
template <typename T>
__global__ void __launch_bounds__(kThreads) gather_members_kernel(WideRound<T> first, int64_t batch) {
  for_tiles(first, batch, [&](const WideRound<T>& round, int64_t, int64_t begin, int64_t end) {
    for (int64_t u = begin + threadIdx.x; u < end; u += kThreads) {
      const int32_t root = round.root[u];
      if (root < 0) continue;
      const int32_t number = round.chain[root];
      round.members[round.begin[number] + round.place[u]] = int32_t(u);
      round.target[u] = number;
    }
  });
}

}  // namespace dhvt
