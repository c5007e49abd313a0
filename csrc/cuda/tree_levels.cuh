// The order in which a block goes up and down a tree.
#pragma once

#include "cuda/arena.cuh"
#include "cuda/block.cuh"

namespace dhvt {

// The block that has a tree: as many threads as leaves, about.
constexpr int kMostTreeThreads = 1024;
inline dim3 tree_threads(int64_t leaves) {
  unsigned threads = 64;
  while (threads < leaves && threads < kMostTreeThreads) threads *= 2;
  return threads;
}

// The inner nodes of a forest by their distance from the root, the deepest level first: the parents of a level's nodes
// are in the next one, so between two levels there is a barrier and nothing else.
struct TreeLevels {
  int32_t* node;      // [I] number of the node at each position
  int32_t* position;  // [I] of each node; -1 for one in no level
  int32_t* begin;     // [levels + 1] first position of each level
  int32_t* depth;     // one number

  DHVT_HD TreeLevels(Arena& arena, int64_t inner)
      : node(arena.take<int32_t>(inner)),
        position(arena.take<int32_t>(inner)),
        begin(arena.take<int32_t>(inner + 1)),
        depth(arena.take<int32_t>(1)) {}

  struct Way {
    int32_t up, distance;
  };
  struct Scratch {
    Way *from, *to;  // [I]

    DHVT_HD Scratch(Arena& arena, int64_t inner) : from(arena.take<Way>(inner)), to(arena.take<Way>(inner)) {}
  };

  __device__ int32_t levels() const { return *depth; }
  __device__ int32_t size() const { return begin[levels()]; }

  // parent(i): the parent of inner node i, -1 for a root, -2 for a node to be left out. Takes log2(levels) barriers.
  template <typename Parent>
  __device__ void build(Scratch scratch, int64_t inner, const Parent& parent) const {
    each(inner, [&](int64_t i) {
      const int32_t up = parent(i);
      scratch.from[i] = {up, up == -2 ? -1 : up >= 0};
    });
    if (threadIdx.x == 0) *depth = 0;
    __syncthreads();
    for (bool more = true; more; more = __syncthreads_or(more)) {
      more = false;
      each(inner, [&](int64_t i) {
        Way way = scratch.from[i];
        if (way.up >= 0) {
          const Way above = scratch.from[way.up];
          way = {above.up, way.distance + above.distance};
        }
        scratch.to[i] = way;
        more |= way.up >= 0;
      });
      Way* const from = scratch.from;
      scratch.from = scratch.to;
      scratch.to = from;
    }
    int32_t* const place = reinterpret_cast<int32_t*>(scratch.to);  // of the next node at each distance
    each(inner, [&](int64_t i) { place[i] = 0; });
    __syncthreads();
    each(inner, [&](int64_t i) {
      const int32_t distance = scratch.from[i].distance;
      if (distance < 0) return;
      atomicAdd(&place[distance], 1);
      atomicMax(depth, distance + 1);
    });
    __syncthreads();
    if (threadIdx.x < 32) {
      int32_t sum = 0;
      for (int32_t k = lane(); k < round_up(levels() + 1, 32); k += 32) {
        const int32_t distance = levels() - 1 - k, here = distance >= 0 ? place[distance] : 0;
        const int32_t first = sum + warp_scan(here) - here;
        if (k <= levels()) begin[k] = first;
        if (distance >= 0) place[distance] = first;
        sum = __shfl_sync(kAllLanes, first + here, 31);
      }
    }
    __syncthreads();
    each(inner, [&](int64_t i) {
      const int32_t distance = scratch.from[i].distance;
      position[i] = distance < 0 ? -1 : atomicAdd(&place[distance], 1);
      if (distance >= 0) node[position[i]] = int32_t(i);
    });
    __syncthreads();
  }

  // body(position) for the nodes of one level after the other, children before parents.
  template <typename Body>
  __device__ __forceinline__ void upwards(const Body& body) const {
    for (int32_t k = 0; k < levels(); ++k) of_level(k, k + 1, body);
  }

  // Parents before children.
  template <typename Body>
  __device__ __forceinline__ void downwards(const Body& body) const {
    for (int32_t k = levels() - 1; k >= 0; --k) of_level(k, k - 1, body);
  }

  // Between the levels k and `next`, if there is one, where so many threads take a node: the first of the block. Deep
  // trees have long runs of narrow levels, which are the first warp's alone.
  __device__ __forceinline__ void sync(int32_t k, int32_t next, int64_t threads_per_node) const {
    const auto narrow = [&](int32_t k) { return (begin[k + 1] - begin[k]) * threads_per_node <= 32; };
    if (next >= 0 && next < levels() && narrow(k) && narrow(next))
      __syncwarp();
    else
      __syncthreads();
  }

 private:
  template <typename Body>
  __device__ __forceinline__ void of_level(int32_t k, int32_t next, const Body& body) const {
    const int32_t first = begin[k];
    each(begin[k + 1] - first, [&](int64_t i) { body(first + int32_t(i)); });
    sync(k, next, 1);
  }
};

}  // namespace dhvt
