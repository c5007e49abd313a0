// The new nodes of a chain of merges: the first one joins two nodes, each later one adds a single node.
//
// A chain tells of its `merges`: single(i), the node that merge i adds; inner(i), the length of the boundary that it
// makes an inner one. other() is the node that the first one adds to, and merged() + i the node that merge i makes.
// kLeaves: what merges are leaves, of which leaf(v) knows the shape. kAhead: so many merges' nodes are read at a time.
#pragma once

#include <algorithm>

#include "cuda/vector.cuh"
#include "merge_tree.h"
#include "segment_moments.h"

namespace dhvt {

// body(i, what load(i) gave) for merges from `base` on, in order; returns the next.
template <int kSize, typename Load, typename Body>
__device__ __forceinline__ int32_t some_merges(int32_t base, int32_t merges, const Load& load, const Body& body) {
  decltype(load(0)) ahead[kSize];
#pragma unroll
  for (int k = 0; k < kSize; ++k)
    if (base + k < merges) ahead[k] = load(base + k);
#pragma unroll
  for (int k = 0; k < kSize; ++k)
    if (base + k < merges) body(base + k, ahead[k]);
  return base + kSize;
}

// All of them: as many are read at a time as is given, first few, since most chains are short.
template <int kFew, int kMany, typename Load, typename Body>
__device__ __forceinline__ void for_merges(int32_t merges, const Load& load, const Body& body) {
  int32_t base = 0;
  if constexpr (kFew < kMany) base = some_merges<kFew>(base, merges, load, body);
  while (base < merges) base = some_merges<kMany>(base, merges, load, body);
}

// What is known of a node besides its features.
template <typename T>
struct NodeShape {
  int32_t v;
  uint32_t n, boundary;
  T centroid[2];
  int32_t box[4];

  static __device__ NodeShape load(const Regions<T, int32_t>& node, int64_t v) {
    NodeShape out{int32_t(v), uint32_t(node.count[v]), uint32_t(node.boundary[v]), {}, {}};
    const auto centroid = load_vector<2>(node.centroid + 2 * v);
    const auto box = load_vector<4>(node.box + 4 * v);
    for (int d = 0; d < 2; ++d) out.centroid[d] = centroid.part[d];
    for (int d = 0; d < 4; ++d) out.box[d] = box.part[d];
    return out;
  }
  __device__ void store(const Regions<T, int32_t>& node) const {
    node.count[v] = int32_t(n);
    node.boundary[v] = int32_t(boundary);
    store_vector(node.centroid + 2 * int64_t(v), centroid);
    store_vector(node.box + 4 * int64_t(v), box);
  }
};

// Mean and m2 for one channel.
template <typename T, typename Chain>
__device__ void join_channel(const MergeTask<T>& task, const Chain& chain, int64_t c) {
  const auto& node = task.node;
  const int64_t channels = task.channels;
  struct Part {
    int32_t n;
    T mean, m2;
  };
  const auto part = [&](int64_t v) {
    const int64_t i = v * channels + c;
    if constexpr (Chain::kLeaves)
      return Part{1, node.mean[i], T(0)};
    else
      return Part{node.count[v], node.mean[i], node.m2[i]};
  };
  Part whole = part(chain.other());
  int64_t out = chain.merged() * channels + c;
  for_merges<std::min(Chain::kAhead, 4), Chain::kAhead>(
      chain.merges, [&](int32_t i) { return part(chain.single(i)); },
      [&](int32_t, Part single) {
        const int32_t n = int32_t(uint32_t(single.n) + uint32_t(whole.n));
        chan_merge(T(single.n), single.mean, single.m2, T(whole.n), whole.mean, whole.m2);
        whole = {n, single.mean, single.m2};
        node.mean[out] = whole.mean;
        node.m2[out] = whole.m2;
        out += channels;
      });
}

// Everything else about them; the last one is nobody's child yet.
template <typename T, typename Chain>
__device__ void join_rest(const MergeTask<T>& task, const Chain& chain, int32_t round) {
  const auto& node = task.node;
  const auto part = [&](int64_t v) {
    if constexpr (Chain::kLeaves)
      return chain.leaf(v);
    else
      return NodeShape<T>::load(node, v);
  };
  NodeShape<T> whole = part(chain.other());
  for_merges<1, (Chain::kAhead + 3) / 4>(
      chain.merges,
      [&](int32_t i) {
        NodeShape<T> single = part(chain.single(i));
        single.boundary -= 2 * chain.inner(i);
        return single;
      },
      [&](int32_t i, const NodeShape<T>& single) {
        const int64_t merged = chain.merged() + i;
        task.parent[single.v] = task.parent[whole.v] = int32_t(merged);
        const T n_a = T(int32_t(single.n)), n_b = T(int32_t(whole.n));
        for (int d = 0; d < 2; ++d) {
          whole.centroid[d] = merge_centroid(n_a, single.centroid[d], n_b, whole.centroid[d]);
          whole.box[d] = single.box[d] < whole.box[d] ? single.box[d] : whole.box[d];
          whole.box[d + 2] = single.box[d + 2] > whole.box[d + 2] ? single.box[d + 2] : whole.box[d + 2];
        }
        whole.v = int32_t(merged);
        whole.n += single.n;
        whole.boundary += single.boundary;
        whole.store(node);
        task.round[merged] = round;
      });
  task.parent[whole.v] = -1;
}

}  // namespace dhvt
