// Rounds of merging by many blocks per image, while images have many vertices: what they keep in memory.
//
// Vertices are numbered in the order of their nodes; the pixels are those of the first round. What picks connect is a
// chain, and a vertex of the next round: the lower end of its closest pair, which is the chain's root, the higher end,
// and then what each further merge adds.
#pragma once

#include "cuda/arena.cuh"
#include "cuda/launch.cuh"
#include "cuda/merge_tables.cuh"

namespace dhvt {

// Vertices of an image that are few enough for one block. Emulated: so few that tests take several wide rounds.
#ifdef __CUDACC__
constexpr int64_t kFewVertices = 2048;
#else
constexpr int64_t kFewVertices = 64;
#endif

// An edge as one of its ends sees it.
struct alignas(8) Neighbour {
  int32_t vertex;
  uint32_t length;
};

// Where the neighbours of a vertex are listed, each once; -1 is none.
struct alignas(8) NeighbourList {
  uint32_t begin;
  int32_t size;
};

struct alignas(16) WideState {
  int32_t vertices, chains;
  int32_t created;  // the node that the round makes first
  uint32_t listed;  // neighbours of its vertices
};

// What a tile of vertices holds.
struct alignas(8) TileTotal {
  int32_t chains, members;
};

// One round. Pointers are those of the first image; arrays of a vertex each have one place per leaf, or
// one for two where they are of later rounds. Two names of one array are one after the other what it holds.
template <typename T>
struct WideRound {
  using Bits = decltype(ordered_bits(T()));
  MergeTask<T> task;
  int64_t tile, tiles, most_chains;  // vertices of a tile; tiles and chains that an image may have in this round
  WideState *state, *next_state;
  Bits* best;          // distance of the best neighbour
  int32_t* neighbour;  // the best neighbour, kNoVertex for a vertex without any
  union {
    int32_t* up;       // a vertex on the way to the closest pair
    int32_t* members;  // chain after chain, in the order of merging
  };
  union {
    int32_t* root;    // -1 for a vertex without neighbours
    int32_t* target;  // the chain
  };
  int32_t* place;  // in the chain: before sorting, then after it
  union {
    int32_t* size;    // of a root: members besides it
    int32_t* chain;   // of a root: number of the chain
    uint32_t* inner;  // of a member: length of the boundary that the merge which adds it makes an inner one
  };
  int32_t* begin;               // of a chain: its first member
  int32_t *nodes, *next_nodes;  // of a vertex; not for the pixels
  TileTotal* totals;            // [tiles]
  NeighbourList *lists, *next_lists;
  Neighbour *neighbours, *next_neighbours;

  // Of a chain of m >= 2 pixels there are 2 m + 2 outside at most, and later rounds list no more than the first.
  static DHVT_HD int64_t most_neighbours(int64_t leaves) { return 3 * leaves; }

  DHVT_HD int64_t blocks_of_chains(int64_t chains) const { return (most_chains + chains - 1) / chains; }

  // The first step of a round, for each vertex.
  __device__ void pick(int64_t u, Bits distance, int32_t of) const {
    best[u] = distance;
    neighbour[u] = of;
    up[u] = of;
    size[u] = 0;
  }

  __device__ bool picks(int64_t u) const { return neighbour[u] != kNoVertex; }

  // Whether vertex a merges into its chain before b.
  __device__ bool earlier(int32_t a, int32_t b) const {
    if (best[a] != best[b]) return best[a] < best[b];
    const int32_t of_a = neighbour[a], of_b = neighbour[b], low_a = min(a, of_a), low_b = min(b, of_b);
    return low_a != low_b ? low_a < low_b : max(a, of_a) < max(b, of_b);
  }

  __device__ WideRound of_image(int64_t b) const {
    WideRound round = *this;
    const int64_t n = task.leaves, v = b * n;
    round.task = task.of_image(b);
    round.state += b;
    round.next_state += b;
    round.best += v;
    round.neighbour += v;
    round.up += v;
    round.root += v;
    round.place += v;
    round.size += v;
    round.begin += b * (n / 2 + 2);
    round.totals += b * tiles;
    const int64_t chain = b * (n / 2);
    round.nodes += chain;
    round.next_nodes += chain;
    round.lists += chain;
    round.next_lists += chain;
    round.neighbours += most_neighbours(v);
    round.next_neighbours += most_neighbours(v);
    return round;
  }
};

}  // namespace dhvt
