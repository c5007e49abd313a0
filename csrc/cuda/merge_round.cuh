// One image's rounds of merging, by one block.
//
// Of a round's graph every vertex is a node of the tree, `first` and its number: the leaves, then the picks of the
// round before, in their order. So numbers are ordered as nodes are, and most are no vertex any more: they have no
// edges. Only after wide rounds (merge_wide.cuh) a list says which nodes the first vertices are, in the same order.
//
// The picks of a component form a tree that hangs from the one edge whose both ends picked it, and away from that edge
// picks come ever later in the order of merging: at a vertex that was picked, what picks it is no better than its own
// pick. So a component's first merge is that of the two ends, and each later one adds a single vertex. Neither a
// union-find nor a search is needed: a component is a chain of merges, and two of its vertices meet in the later of the
// two merges that added them.
#pragma once

#include "cuda/block.cuh"
#include "cuda/merge_chain.cuh"
#include "cuda/merge_tables.cuh"
#include "cuda/merge_wide.cuh"

namespace dhvt {

// The regions of a label map and the edges between them, as merge_tree is given them.
template <typename T>
struct RegionLeaves {
  static constexpr bool kContracted = false;
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

// The nodes of a round's vertices: `first` and their number, or what a list says; and the node of the first pick.
struct VertexNodes {
  const int32_t* list;
  int32_t first, created;

  __device__ int32_t of(int32_t vertex) const { return list != nullptr ? list[vertex] : first + vertex; }
};

// A chain of picks.
template <typename T>
struct PickChain {
  static constexpr bool kLeaves = false;
  static constexpr int kAhead = 2;
  const MergeTables<T>& t;
  VertexNodes nodes;
  int32_t pick, merges;

  __device__ PickChain(const MergeTables<T>& tables, const VertexNodes& nodes_, int32_t pick_)
      : t(tables), nodes(nodes_), pick(pick_), merges(t.other[t.root[t.owner[pick]]] - pick + 1) {}

  __device__ int64_t single(int32_t i) const { return nodes.of(t.owner[pick + i]); }
  __device__ int64_t other() const { return nodes.of(t.neighbour[t.owner[pick]]); }
  __device__ int64_t merged() const { return nodes.created + pick; }
  __device__ uint32_t inner(int32_t i) const { return t.inner[pick + i]; }
};

template <typename T, typename Leaves>
class MergeRounds {
 public:
  using Bits = typename MergeMemory<T>::Bits;

  __device__ MergeRounds(const MergeTask<T>& task, const Leaves& leaves, const MergeMemory<T>& memory,
                         const Arena& scratch)
      : task_(task), leaves_(leaves), memory_(memory), scratch_(scratch), counters_(*memory.counters) {}

  __device__ void run() {
    int64_t round = 1;
    if (threadIdx.x == 0) counters_.edges = 0;
    __syncthreads();
    if constexpr (Leaves::kContracted) {
      nodes_ = {leaves_.nodes, 0, leaves_.state->created};
      vertices_ = leaves_.state->vertices;
      round += leaves_.rounds;
      list_edges();
    } else {
      nodes_ = {nullptr, 0, int32_t(task_.leaves)};
      vertices_ = int32_t(task_.leaves);
      copy_leaves();
      start();
    }
    for (; edges_ > 0 && (task_.max_rounds < 0 || round <= task_.max_rounds); ++round) {
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
    const int64_t begin = nodes_.created, size = task_.nodes - begin;
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
    each_warp(leaves_.candidates(), [&](int64_t e) {
      const MergeEdge edge = e < leaves_.candidates() ? leaves_.edge(e) : MergeEdge{-1, -1, 0};
      append_edge(edge.u >= 0, edge.u, edge.v, edge.length);
    });
    __syncthreads();
    const Tables tables(scratch_, vertices_, counters_.edges);
    clear_hash(tables, counters_.edges);
    take_next_edges();
    __syncthreads();
    sum_parallel_edges(tables, edges_);
    __syncthreads();
  }

  // The graph that is left, in which there are no parallel edges: each from its lower end's list.
  __device__ void list_edges() {
    each_warp(leaves_.rounds > 0 ? vertices_ : 0, [&](int64_t i) {
      const NeighbourList own = i < vertices_ ? leaves_.listed.lists[i] : NeighbourList{0, 0};
      const auto append_from = [&](const NeighbourList& list, int32_t u, int32_t j) {
        Neighbour to{-1, 0};
        if (j < list.size) to = leaves_.listed.neighbours[list.begin + uint32_t(j)];
        append_edge(u < to.vertex, u, to.vertex, to.length);
      };
      const bool many = own.size > 32;
      for (int32_t j = 0; __any_sync(kAllLanes, !many && j < own.size); ++j)
        append_from(many ? NeighbourList{0, 0} : own, int32_t(i), j);
      for (unsigned left = __ballot_sync(kAllLanes, many); left != 0; left &= left - 1) {
        const int owner = __ffs(int(left)) - 1;
        const NeighbourList list{__shfl_sync(kAllLanes, own.begin, owner), __shfl_sync(kAllLanes, own.size, owner)};
        for (int32_t j = lane(); j < round_up(list.size, 32); j += 32)
          append_from(list, int32_t(i) - lane() + owner, j);
      }
    });
    __syncthreads();
    take_next_edges();
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
      const Bits distance = ordered_bits(task_.distance(nodes_.of(u), nodes_.of(v), int64_t(edges[e].length)));
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
    each(picks, [&](int64_t p) { t.picks[p].root = uint32_t(t.root[t.picks[p].ends >> 32]); });
    __syncthreads();
    sort_block(t.picks, picks, [](const auto& a, const auto& b) { return a < b; });
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
      const PickChain<T> chain(t, nodes_, t.chains[i / items]);
      const int64_t c = i % items;
      if (c < task_.channels)
        join_channel(task_, chain, c);
      else
        join_rest(task_, chain, round);
    });
    sum_parallel_edges(t, before);
    nodes_ = {nullptr, nodes_.created, nodes_.created + picks};
    vertices_ = picks;
    __syncthreads();
  }

  MergeTask<T> task_;
  Leaves leaves_;
  MergeMemory<T> memory_;
  Arena scratch_;
  MergeCounters& counters_;
  VertexNodes nodes_{};
  int32_t vertices_ = 0, edges_ = 0;  // of the round's graph
};

}  // namespace dhvt
