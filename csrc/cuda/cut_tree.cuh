// One image's tree as the block that cuts it holds it, and the least costs on it.
#pragma once

#include "cuda/tree_levels.cuh"
#include "tree_cut.h"

namespace dhvt {

template <typename T>
struct CutTerms {
  T likelihood, penalty;
};

// The used nodes of a forest. A leaf goes by its number; an inner node by its position in the levels, as a child by the
// number of leaves more than that.
template <typename T>
struct CutTree {
  // At most two children in ascending order, -1 for no second; of more, `first` is ~ the first of a list in `next`.
  struct Children {
    int32_t first, second;
  };

  int32_t leaves, inner;
  Children* children;       // [I]
  CutTerms<double>* terms;  // [I] brought into order: all finite
  CutTerms<T>* leaf_terms;  // [L]
  TreeLevels levels;
  int32_t* parent;       // [L + I] position of the parent, -1 for roots, -2 for unused leaves
  int32_t* root_leaves;  // one number: leaves that are roots
  int32_t* next;         // [L + I]

  DHVT_HD CutTree(Arena& arena, int64_t leaves, int64_t nodes)
      : leaves(int32_t(leaves)),
        inner(int32_t(nodes - leaves)),
        children(arena.take<Children>(inner)),
        terms(arena.take<CutTerms<double>>(inner)),
        leaf_terms(arena.take<CutTerms<T>>(leaves)),
        levels(arena, inner),
        parent(arena.take<int32_t>(nodes)),
        root_leaves(arena.take<int32_t>(1)),
        next(arena.take_global<int32_t>(nodes)) {}

  struct Scratch {
    TreeLevels::Scratch levels;
    int32_t* parent;  // [L + I] number of the inner node above each node, -1 for roots, -2 for unused nodes
    int32_t *count, *lowest, *highest;  // [I] children: their number, the first and the last

    DHVT_HD Scratch(Arena& arena, int64_t inner, int64_t nodes)
        : levels(arena, inner),
          parent(arena.take<int32_t>(nodes)),
          count(arena.take<int32_t>(inner)),
          lowest(arena.take<int32_t>(inner)),
          highest(arena.take<int32_t>(inner)) {}
  };

  __device__ int32_t size() const { return levels.size(); }

  // body(child) in ascending order of the children's nodes.
  template <typename Body>
  __device__ __forceinline__ void each_child(int32_t q, const Body& body) const {
    const Children pair = children[q];
    if (pair.first >= 0) {
      body(pair.first);
      if (pair.second >= 0) body(pair.second);
    } else {
      for (int32_t c = ~pair.first; c >= 0; c = next[c]) body(c);
    }
  }

  // The sum over the children of a number that leaf(i) or inner(position) has.
  template <typename Leaf, typename Inner>
  __device__ __forceinline__ double sum_children(int32_t q, const Leaf& leaf, const Inner& inner) const {
    double sum = 0;
    each_child(q, [&](int32_t c) { sum += c < leaves ? leaf(c) : inner(c - leaves); });
    return sum;
  }

  __device__ __forceinline__ double cost(int32_t q, double strength) const {
    return node_cost(terms[q].likelihood, terms[q].penalty, strength);
  }
  __device__ __forceinline__ double leaf_cost(int32_t leaf, double strength) const {
    return node_cost(double(leaf_terms[leaf].likelihood), double(leaf_terms[leaf].penalty), strength);
  }

  // Fills in everything, from likelihood [V], penalty [V], parent [V] and round [V].
  __device__ void build(const T* likelihood, const T* penalty, const int32_t* given_parent, const int32_t* round,
                        Arena scratch) const {
    const int32_t nodes = leaves + inner;
    const Scratch s(scratch, inner, nodes);
    each(nodes, [&](int64_t v) {
      const int64_t p = valid_parent(given_parent, round, leaves, nodes, v);
      s.parent[v] = round[v] < 0 ? -2 : p < 0 ? -1 : int32_t(p - leaves);
    });
    each(inner, [&](int64_t i) { s.count[i] = 0; });
    if (threadIdx.x == 0) *root_leaves = 0;
    __syncthreads();
    each(nodes, [&](int64_t v) {
      if (s.parent[v] >= 0) atomicAdd(&s.count[s.parent[v]], 1);
      if (s.parent[v] == -1 && v < leaves) atomicAdd(root_leaves, 1);
    });
    __syncthreads();
    drop_childless(s);
    each(inner, [&](int64_t i) { s.lowest[i] = nodes, s.highest[i] = -1; });
    __syncthreads();
    each(nodes, [&](int64_t v) {
      if (s.parent[v] < 0) return;
      atomicMin(&s.lowest[s.parent[v]], int32_t(v));
      atomicMax(&s.highest[s.parent[v]], int32_t(v));
    });
    levels.build(s.levels, inner, [&](int64_t i) { return s.parent[leaves + i]; });
    list_children(s);
    bring_into_order(likelihood, penalty, s);
  }

 private:
  // The name of node v as a child.
  __device__ int32_t child(int32_t v) const { return v < leaves ? v : leaves + levels.position[v - leaves]; }

  // Inner nodes without a used child are unused: none in a merge tree, but any number, one after the other, in others.
  __device__ void drop_childless(const Scratch& s) const {
    const auto childless = [&](int64_t i) { return s.parent[leaves + i] != -2 && s.count[i] == 0; };
    for (;;) {
      bool any = false;
      each(inner, [&](int64_t i) {
        s.lowest[i] = childless(i);
        any |= childless(i);
      });
      if (!__syncthreads_or(any)) return;
      each(inner, [&](int64_t i) {
        if (!s.lowest[i]) return;
        if (s.parent[leaves + i] >= 0) atomicAdd(&s.count[s.parent[leaves + i]], -1);
        s.parent[leaves + i] = -2;
      });
      __syncthreads();
    }
  }

  __device__ void list_children(const Scratch& s) const {
    bool many = false;
    each(inner, [&](int64_t i) {
      const int32_t q = levels.position[i];
      if (q < 0) return;
      const int32_t up = s.parent[leaves + i], first = child(s.lowest[i]);
      parent[leaves + q] = up < 0 ? up : levels.position[up];
      children[q] = s.count[i] == 1   ? Children{first, -1}
                    : s.count[i] == 2 ? Children{first, child(s.highest[i])}
                                      : Children{~first, -1};
      many |= s.count[i] > 2;
    });
    each(leaves, [&](int64_t i) { parent[i] = s.parent[i] < 0 ? s.parent[i] : levels.position[s.parent[i]]; });
    if (!__syncthreads_or(many)) return;
    each(inner, [&](int64_t i) { s.highest[i] = -1; });  // from here on, the first child of the list so far
    __syncthreads();
    if (threadIdx.x < 32) list_many(s);
    __syncthreads();
  }

  // One warp goes through the nodes from the last to the first, 32 at a time.
  __device__ void list_many(const Scratch& s) const {
    for (int32_t begin = leaves + inner - 1; begin >= 0; begin -= 32) {
      const int32_t v = begin - lane(), p = v >= 0 ? s.parent[v] : -2;
      const int32_t family = p >= 0 ? p : -1 - lane();
      const unsigned same = __match_any_sync(kAllLanes, family), before = same & lanes_below();
      if (p >= 0) next[child(v)] = before != 0 ? child(begin - (31 - __clz(int(before)))) : s.highest[p];
      __syncwarp();
      if (p >= 0 && same >> lane() == 1) s.highest[p] = child(v);
      __syncwarp();
    }
  }

  __device__ void bring_into_order(const T* likelihood, const T* penalty, const Scratch& s) const {
    const auto finite = [](T x) { return std::isfinite(x) ? x : T(0); };
    each(leaves, [&](int64_t i) { leaf_terms[i] = {finite(likelihood[i]), finite(penalty[i])}; });
    bool any = false;
    each(inner, [&](int64_t i) {
      const int32_t q = levels.position[i];
      if (q < 0) return;
      terms[q] = {double(likelihood[leaves + i]), double(finite(penalty[leaves + i]))};
      any |= !std::isfinite(terms[q].likelihood);
    });
    if (!__syncthreads_or(any)) return;
    levels.upwards([&](int32_t q) {
      if (std::isfinite(terms[q].likelihood)) return;
      terms[q].likelihood = kNonFiniteCost + sum_children(
                                                 q, [&](int32_t leaf) { return double(leaf_terms[leaf].likelihood); },
                                                 [&](int32_t c) { return terms[c].likelihood; });
    });
  }
};

// What a tree's inner nodes cost at one strength: best(v) = min(cost(v), sum of best(children)).
struct CutCosts {
  double *best, *below;  // [I] by position; the sum of the children's best

  DHVT_HD CutCosts(Arena& arena, int64_t inner) : best(arena.take<double>(inner)), below(arena.take<double>(inner)) {}

  template <typename T>
  __device__ void optimal(const CutTree<T>& tree, double strength) const {
    tree.levels.upwards([&](int32_t q) {
      const double sum = tree.sum_children(
          q, [&](int32_t leaf) { return tree.leaf_cost(leaf, strength); }, [&](int32_t c) { return best[c]; });
      const double cost = tree.cost(q, strength);
      below[q] = sum;
      best[q] = sum < cost ? sum : cost;
    });
  }

  // After optimal(); ties keep the parent: fewer tokens.
  template <typename T>
  __device__ bool is_kept(const CutTree<T>& tree, int32_t q, double strength) const {
    return !(below[q] < tree.cost(q, strength));
  }

  // After optimal(), of one node, whose shares take the place of `best` and `below`.
  template <typename T>
  __device__ void relax(const CutTree<T>& tree, int32_t q, double strength, double temperature) const {
    const Shares shares = relaxed_shares(relaxed_odds((tree.cost(q, strength) - below[q]) / temperature));
    best[q] = shares.stays;
    below[q] = shares.split;
  }
  __device__ Shares shares(int32_t q) const { return {below[q], best[q]}; }
};

}  // namespace dhvt
