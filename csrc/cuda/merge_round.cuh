// One image's rounds of merging, by one block.
//
// Of a round's graph every vertex is a node of the tree, `first` and its number: the leaves, then the picks of the
// round before, in their order. So numbers are ordered as nodes are, and most are no vertex any more: they have no
// edges.
//
// The picks of a component form a tree that hangs from the one edge whose both ends picked it, and away from that edge
// picks come ever later in the order of merging: at a vertex that was picked, what picks it is no better than its own
// pick. So a component's first merge is that of the two ends, and each later one adds a single vertex. Neither a
// union-find nor a search is needed: a component is a chain of merges, and two of its vertices meet in the later of the
// two merges that added them.
#pragma once

#include "cuda/block.cuh"
#include "cuda/merge_tables.cuh"
#include "segment_moments.h"

namespace dhvt {

// The regions of a label map and the edges between them, as merge_tree is given them.
template <typename T>
struct RegionLeaves {
  static constexpr bool kParallelEdges = true;
  MergeTask<T> task;

  __device__ RegionLeaves of_image(int64_t b) const { return {task.of_image(b)}; }

  // Leaf v, which is an unused one if it has no pixels.
  __device__ int32_t count(int64_t v) const { return task.leaf.count[v] > 0 ? task.leaf.count[v] : 0; }
  __device__ T mean(int64_t v, int64_t c) const { return task.leaf.mean[v * task.channels + c]; }
  __device__ T m2(int64_t v, int64_t c) const { return task.leaf.m2[v * task.channels + c]; }
  __device__ T centroid(int64_t v, int d) const { return task.leaf.centroid[2 * v + d]; }
  __device__ int32_t box(int64_t v, int d) const { return task.leaf.box[4 * v + d]; }
  __device__ int32_t boundary(int64_t v) const { return task.leaf.boundary[v]; }

  // What may be edges; u < 0 for what is none.
  __device__ int64_t candidates() const { return task.num_edges; }
  __device__ MergeEdge edge(int64_t e) const {
    if (!task.is_edge(e)) return {-1, -1, 0};
    return {task.edges[2 * e], task.edges[2 * e + 1], static_cast<unsigned long long>(task.lengths[e])};
  }
};

template <typename T, typename Leaves>
class MergeRounds {
 public:
  using Bits = typename MergeMemory<T>::Bits;

  __device__ MergeRounds(const MergeTask<T>& task, const Leaves& leaves, const MergeMemory<T>& memory,
                         const Arena& scratch)
      : task_(task), leaves_(leaves), memory_(memory), scratch_(scratch), counters_(*memory.counters) {}

  __device__ void run() {
    copy_leaves();
    start();
    for (int64_t round = 1; edges_ > 0 && (task_.max_rounds < 0 || round <= task_.max_rounds); ++round) {
      Tables tables(scratch_, vertices_, edges_);
      pick(tables);
      link(tables);
      merge(tables, int32_t(round));
    }
    clear_unused();
  }

 private:
  using Tables = MergeTables<T>;

  __device__ void copy_leaves() const {
    const auto& node = task_.node;
    each(task_.leaves * task_.channels, [&](int64_t i) {
      const int64_t v = i / task_.channels, c = i % task_.channels;
      const bool used = leaves_.count(v) > 0;
      node.mean[i] = used ? leaves_.mean(v, c) : T(0);
      node.m2[i] = used ? leaves_.m2(v, c) : T(0);
    });
    each(task_.leaves, [&](int64_t v) {
      const int32_t count = leaves_.count(v);
      const bool used = count > 0;
      task_.parent[v] = -1;
      task_.round[v] = used ? 0 : -1;
      node.count[v] = count;
      node.boundary[v] = used ? leaves_.boundary(v) : 0;
      for (int d = 0; d < 2; ++d) node.centroid[2 * v + d] = used ? leaves_.centroid(v, d) : T(0);
      for (int d = 0; d < 4; ++d) node.box[4 * v + d] = used ? leaves_.box(v, d) : -(d / 2);
    });
  }

  __device__ void clear_unused() const {
    const auto& node = task_.node;
    const int64_t begin = first_ + vertices_, size = task_.nodes - begin;
    each(size * task_.channels, [&](int64_t i) {
      node.mean[begin * task_.channels + i] = T(0);
      node.m2[begin * task_.channels + i] = T(0);
    });
    each(size, [&](int64_t i) {
      const int64_t v = begin + i;
      task_.parent[v] = task_.round[v] = -1;
      node.count[v] = node.boundary[v] = 0;
      for (int d = 0; d < 2; ++d) node.centroid[2 * v + d] = T(0);
      for (int d = 0; d < 4; ++d) node.box[4 * v + d] = -(d / 2);
    });
  }

  // The graph of the leaves.
  __device__ void start() {
    if (threadIdx.x == 0) counters_.edges = 0;
    __syncthreads();
    each_warp(leaves_.candidates(), [&](int64_t e) {
      const MergeEdge edge = e < leaves_.candidates() ? leaves_.edge(e) : MergeEdge{-1, -1, 0};
      append_edge(edge.u >= 0, edge.u, edge.v, edge.length);
    });
    vertices_ = task_.leaves;
    __syncthreads();
    const Tables tables(scratch_, vertices_, counters_.edges);
    if constexpr (Leaves::kParallelEdges) clear_hash(tables, counters_.edges);
    take_next_edges();
    __syncthreads();
    if constexpr (Leaves::kParallelEdges) sum_parallel_edges(tables, edges_);
    __syncthreads();
  }

  // All lanes of a warp.
  __device__ void append_edge(bool wanted, int32_t u, int32_t v, unsigned long long length) const {
    const int32_t place = append(&counters_.edges, wanted);
    if (wanted) memory_.next_edges[place] = u < v ? MergeEdge{u, v, length} : MergeEdge{v, u, length};
  }

  __device__ void take_next_edges() {
    MergeEdge* const edges = memory_.edges;
    memory_.edges = memory_.next_edges;
    memory_.next_edges = edges;
    edges_ = counters_.edges;
  }

  __device__ static void clear_hash(const Tables& t, int64_t edges) {
    each(hash_slots(edges), [&](int64_t i) { t.hash[i] = -1; });
  }

  // Of parallel edges the one that comes first takes the lengths of the others. Which one that is, nothing depends on.
  __device__ void sum_parallel_edges(const Tables& t, int64_t slots_for) const {
    MergeEdge* const edges = memory_.edges;
    const uint32_t mask = uint32_t(hash_slots(slots_for) - 1);
    each(edges_, [&](int64_t e) {
      const int32_t u = edges[e].u, v = edges[e].v;
      uint32_t slot = uint32_t(u) * 0x9e3779b1u ^ uint32_t(v) * 0x85ebca6bu;
      for (slot ^= slot >> 15;; ++slot) {
        const int32_t there = atomicCAS(&t.hash[slot & mask], -1, int32_t(e));
        if (there == -1) return;
        if (edges[there].u != u || edges[there].v != v) continue;
        atomicAdd(&edges[there].length, edges[e].length);
        edges[e].u = -1;
        return;
      }
    });
  }

  // Every vertex picks its best neighbour: least distance, then lowest number. The picked edges in picks, in order.
  __device__ void pick(const Tables& t) {
    const MergeEdge* const edges = memory_.edges;
    each(vertices_, [&](int64_t u) {
      t.best[u] = ~Bits(0);
      t.neighbour[u] = kNoVertex;
      t.inner[u] = 0;
    });
    if (threadIdx.x == 0) counters_ = {0, 0, 0};
    __syncthreads();
    each(edges_, [&](int64_t e) {
      const int32_t u = edges[e].u, v = edges[e].v;
      if (u < 0) return;
      const Bits distance = ordered_bits(task_.distance(first_ + u, first_ + v, int64_t(edges[e].length)));
      memory_.distances[e] = distance;
      atomicMin(&t.best[u], distance);
      atomicMin(&t.best[v], distance);
    });
    __syncthreads();
    each(edges_, [&](int64_t e) {  // as above, so that each thread meets its own distances
      const int32_t u = edges[e].u, v = edges[e].v;
      if (u < 0) return;
      const Bits distance = memory_.distances[e];
      if (distance == t.best[u]) atomicMin(&t.neighbour[u], v);
      if (distance == t.best[v]) atomicMin(&t.neighbour[v], u);
    });
    __syncthreads();
    each_warp(vertices_, [&](int64_t i) {
      const int32_t u = int32_t(i), v = i < vertices_ ? t.neighbour[u] : kNoVertex;
      const bool mutual = v != kNoVertex && t.neighbour[v] == u;
      if (i < vertices_) t.root[u] = v == kNoVertex || (mutual && u < v) ? u : v;
      const bool picks = v != kNoVertex && !(mutual && v < u);  // the lower end owns a mutual pick
      const int32_t place = append(&counters_.picks, picks);
      if (!picks) return;
      const uint64_t low = u < v ? u : v, high = u < v ? v : u;
      t.picks[place] = {0, t.best[u], low << 32 | high};
    });
    __syncthreads();
  }

  // Sorts the picks, and chains those of one component in their order.
  __device__ void link(Tables& t) const {
    const int32_t picks = counters_.picks;
    const int64_t padded = power_of_two(picks);
    for (bool more = true; more; more = __syncthreads_or(more)) {  // everybody to the vertex of its vertex
      more = false;
      each(vertices_, [&](int64_t u) {
        const int32_t up = t.root[u], above = t.root[up];
        t.other[u] = above;
        more |= above != up;
      });
      int32_t* const from = t.root;
      t.root = t.other;
      t.other = from;
    }
    each(padded, [&](int64_t p) {
      if (p < picks)
        t.picks[p].root = uint32_t(t.root[t.picks[p].ends >> 32]);
      else
        t.picks[p] = {~0u, Bits(~Bits(0)), ~0ull};
    });
    __syncthreads();
    sort_block(t.picks, padded);
    each_warp(picks, [&](int64_t p) {
      bool first = false;
      if (p < picks) {
        const auto [root, distance, ends] = t.picks[p];
        const int32_t low = int32_t(ends >> 32), high = int32_t(ends & 0xffffffffu);
        const bool of_low = t.neighbour[low] == high, of_high = t.neighbour[high] == low;
        t.owner[p] = of_low ? low : high;
        if (of_low) t.added[low] = int32_t(p);
        if (of_high) t.added[high] = int32_t(p);
        first = p == 0 || t.picks[p - 1].root != root;
        const bool last = p + 1 == picks || t.picks[p + 1].root != root;
        t.next[p] = last ? -1 : int32_t(p + 1);
        if (last) t.other[root] = int32_t(p);
      }
      const int32_t place = append(&counters_.chains, first);
      if (first) t.chains[place] = int32_t(p);
    });
    __syncthreads();
  }

  // Makes the new nodes, which are the next round's vertices, and the edges between them.
  __device__ void merge(const Tables& t, int32_t round) {
    const int32_t picks = counters_.picks, before = edges_;
    clear_hash(t, before);
    each_warp(before, [&](int64_t e) {
      MergeEdge edge{-1, -1, 0};
      if (e < before) edge = memory_.edges[e];
      bool leaves = false;
      int32_t u = 0, v = 0;
      if (edge.u >= 0) {
        u = t.root[edge.u], v = t.root[edge.v];
        leaves = u != v;
        if (!leaves) {
          const int32_t add_u = t.added[edge.u], add_v = t.added[edge.v];
          atomicAdd(&t.inner[add_u > add_v ? add_u : add_v], uint32_t(edge.length));
        } else {
          u = t.other[u], v = t.other[v];
        }
      }
      append_edge(leaves, u, v, edge.length);
    });
    __syncthreads();
    take_next_edges();
    const int64_t items = task_.channels + 1;
    each(counters_.chains * items, [&](int64_t i) {
      const int32_t chain = t.chains[i / items];
      const int64_t c = i % items;
      if (c < task_.channels)
        join_channel(t, chain, c);
      else
        join_rest(t, chain, round);
    });
    sum_parallel_edges(t, before);
    first_ += vertices_;
    vertices_ = picks;
    __syncthreads();
  }

  // Mean and m2 of the new nodes of a chain, for one channel. What a merge adds is read while the one before computes.
  __device__ void join_channel(const Tables& t, int32_t p, int64_t c) const {
    const auto& node = task_.node;
    const int64_t channels = task_.channels;
    struct Part {
      int32_t n;
      T mean, m2;
    };
    const auto part = [&](int32_t vertex) {
      const int64_t v = first_ + vertex, i = v * channels + c;
      return Part{node.count[v], node.mean[i], node.m2[i]};
    };
    Part a = part(t.owner[p]), b = part(t.neighbour[t.owner[p]]);
    for (;;) {
      const int32_t following = t.next[p];
      Part added{0, T(0), T(0)};
      if (following >= 0) added = part(t.owner[following]);
      chan_merge(T(a.n), a.mean, a.m2, T(b.n), b.mean, b.m2);
      const int64_t i = (first_ + vertices_ + int64_t(p)) * channels + c;
      node.mean[i] = a.mean;
      node.m2[i] = a.m2;
      if (following < 0) return;
      b = {int32_t(uint32_t(a.n) + uint32_t(b.n)), a.mean, a.m2};
      a = added;
      p = following;
    }
  }

  // Everything else about them.
  __device__ void join_rest(const Tables& t, int32_t p, int32_t round) const {
    const auto& node = task_.node;
    struct Part {
      uint32_t n, boundary;
      T centroid[2];
      int32_t box[4];
    };
    const auto part = [&](int64_t v) {
      Part out{uint32_t(node.count[v]), uint32_t(node.boundary[v]), {}, {}};
      for (int d = 0; d < 2; ++d) out.centroid[d] = node.centroid[2 * v + d];
      for (int d = 0; d < 4; ++d) out.box[d] = node.box[4 * v + d];
      return out;
    };
    const int64_t created = first_ + vertices_;
    int64_t v = first_ + t.neighbour[t.owner[p]];
    Part b = part(v);
    for (;;) {
      const int64_t single = first_ + t.owner[p], merged = created + p;
      const int32_t following = t.next[p];
      const Part a = part(single);
      task_.parent[single] = task_.parent[v] = int32_t(merged);
      const T n_a = T(int32_t(a.n)), n_b = T(int32_t(b.n));
      for (int d = 0; d < 2; ++d) {
        b.centroid[d] = merge_centroid(n_a, a.centroid[d], n_b, b.centroid[d]);
        b.box[d] = a.box[d] < b.box[d] ? a.box[d] : b.box[d];
        b.box[d + 2] = a.box[d + 2] > b.box[d + 2] ? a.box[d + 2] : b.box[d + 2];
      }
      b.n += a.n;
      b.boundary += a.boundary - 2 * t.inner[p];
      node.count[merged] = int32_t(b.n);
      node.boundary[merged] = int32_t(b.boundary);
      for (int d = 0; d < 2; ++d) node.centroid[2 * merged + d] = b.centroid[d];
      for (int d = 0; d < 4; ++d) node.box[4 * merged + d] = b.box[d];
      task_.round[merged] = round;
      v = merged;
      if (following < 0) break;
      p = following;
    }
    task_.parent[v] = -1;
  }

  MergeTask<T> task_;
  Leaves leaves_;
  MergeMemory<T> memory_;
  Arena scratch_;
  MergeCounters& counters_;
  int32_t first_ = 0, vertices_ = 0, edges_ = 0;  // node of vertex 0; of the round's graph
};

}  // namespace dhvt
