// What a block that merges an image has in memory; see merge_round.cuh.
#pragma once

#include "cuda/arena.cuh"
#include "merge_tree.h"

namespace dhvt {

// An edge between vertices u < v; u < 0 where a parallel one stands for it, too.
struct alignas(16) MergeEdge {
  int32_t u, v;
  unsigned long long length;  // sum of the leaf edges between them
};

// An edge that some vertex picked. Picks merge in this order, component after component.
template <typename Bits>
struct alignas(16) MergePick {
  uint32_t root;            // of the component
  Bits distance;            // ordered
  unsigned long long ends;  // lower end, higher end

  __device__ bool operator<(const MergePick& other) const {
    if (root != other.root) return root < other.root;
    return distance != other.distance ? distance < other.distance : ends < other.ends;
  }
};

constexpr int32_t kNoVertex = 0x7fffffff;

// Slots of a hash table for so many edges, at most three quarters full: a power of two.
DHVT_HD int64_t hash_slots(int64_t edges) {
  int64_t slots = 1;
  while (slots < edges + edges / 3 + 1) slots *= 2;
  return slots;
}

struct alignas(16) MergeCounters {
  int32_t edges, picks, chains;
};

// What lives through all rounds.
template <typename T>
struct MergeMemory {
  using Bits = decltype(ordered_bits(T()));
  MergeCounters* counters;
  MergeEdge *edges, *next_edges;  // [E]; in global memory: read in a row
  Bits* distances;                // [E]

  DHVT_HD MergeMemory(Arena& arena, int64_t num_edges)
      : counters(arena.take<MergeCounters>(1)),
        edges(arena.take_global<MergeEdge>(num_edges)),
        next_edges(arena.take_global<MergeEdge>(num_edges)),
        distances(arena.take_global<Bits>(num_edges)) {}
};

// Scratch of a round with n vertices and so many edges. 32 bytes per vertex and the larger of picks and hash table.
template <typename T>
struct MergeTables {
  using Bits = typename MergeMemory<T>::Bits;
  union {
    MergePick<Bits>* picks;  // [n]
    int32_t* hash;           // [slots]: number of an edge
  };
  Bits* best;             // [n] distance of the best neighbour
  int32_t* neighbour;     // [n] the best neighbour
  int32_t *root, *other;  // [n] the lower end of the component's closest pair; scratch, then its last pick
  int32_t* added;         // [n] the pick that added the vertex
  int32_t* owner;         // [picks] the single vertex that a pick adds
  uint32_t* inner;        // [picks] length of the boundary that the merge makes an inner one, modulo 2^32
  int32_t* chains;        // [n / 2] the first pick of each component

  DHVT_HD MergeTables(Arena arena, int64_t n, int64_t edges) {
    const int64_t pick_bytes = n * int64_t(sizeof(MergePick<Bits>)), hash_bytes = 4 * hash_slots(edges);
    picks = reinterpret_cast<MergePick<Bits>*>(arena.take<char>(pick_bytes > hash_bytes ? pick_bytes : hash_bytes));
    best = arena.take<Bits>(n);
    neighbour = arena.take<int32_t>(n);
    root = arena.take<int32_t>(n);
    other = arena.take<int32_t>(n);
    added = arena.take<int32_t>(n);
    owner = arena.take<int32_t>(n);
    inner = arena.take<uint32_t>(n);
    chains = arena.take<int32_t>(n / 2 + 1);
    global_bytes = arena.global_bytes();
  }

  size_t global_bytes;
};

}  // namespace dhvt
