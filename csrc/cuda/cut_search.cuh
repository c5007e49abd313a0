// The least strength whose cut holds a budget, from the numbers of segments at several strengths at a time.
#pragma once

#include <bit>
#include <limits>

#include "cuda/cut_tree.cuh"

namespace dhvt {

// So many neighbouring threads take one node, at a strength each: 2^bits, at most a warp. A node's numbers lie in a
// row.
struct StrengthLanes {
  int bits;

  __device__ int size() const { return 1 << bits; }
  __device__ int own() const { return lane() & (size() - 1); }
  __device__ int64_t index(int64_t place) const { return place << bits | own(); }

  template <typename Body>
  __device__ __forceinline__ void each_node(int32_t begin, int32_t end, const Body& body) const {
    for (int32_t q = begin + int32_t(threadIdx.x >> bits); q < end; q += int32_t(blockDim.x >> bits)) body(q);
  }

  // totals [32]: segments of the cut at each strength. Bit i: strength i holds the budget. All threads.
  __device__ unsigned holding(const int32_t* totals, int64_t max_tokens) const {
    const unsigned holds = __ballot_sync(kAllLanes, totals[own()] <= max_tokens);
    __syncthreads();
    return holds;
  }
};

// Counts segments of optimal cuts, level by level. Only the levels of a node and of its children are in memory, one
// from either end: as many strengths as there is room for, in shared memory or else in the workspace.
template <typename T>
class OptimalCounter {
 public:
  // Of two neighbouring levels at least kLeast strengths fit the workspace.
  static constexpr int kLeastBits = 2, kMostBits = 5;

  struct Memory {
    int32_t *totals, *slots;  // [32]; one number: nodes of the two neighbouring levels that have most
    double* best;             // [kLeast I] cost of the best cut below a node
    int32_t* segments;        // [kLeast I] of that cut

    DHVT_HD Memory(Arena& arena, int64_t inner)
        : totals(arena.take<int32_t>(32)),
          slots(arena.take<int32_t>(1)),
          best(arena.take_global<double>(inner << kLeastBits)),
          segments(arena.take_global<int32_t>(inner << kLeastBits)) {}
  };

  __device__ OptimalCounter(const CutTree<T>& tree, Arena arena)
      : tree_(tree), memory_(arena, tree.inner), lanes_{kMostBits} {
    const TreeLevels& levels = tree.levels;
    if (threadIdx.x == 0) *memory_.slots = 0;
    __syncthreads();
    each(levels.levels(),
         [&](int64_t k) { atomicMax(memory_.slots, levels.begin[k + 1] - levels.begin[k > 0 ? k - 1 : 0]); });
    __syncthreads();
    for (;; --lanes_.bits) {
      const int64_t size = int64_t(*memory_.slots) << lanes_.bits;
      if (size * (sizeof(double) + sizeof(int32_t)) + 16 <= arena.room()) {
        memory_.best = arena.take<double>(size);
        memory_.segments = arena.take<int32_t>(size);
        return;
      }
      if (size <= int64_t(tree.inner) << kLeastBits) return;
    }
  }

  __device__ const StrengthLanes& lanes() const { return lanes_; }

  // Which lanes' cuts, at a strength each, have at most max_tokens segments.
  __device__ unsigned operator()(double strength, int64_t max_tokens) const {
    const TreeLevels& levels = tree_.levels;
    const auto& [totals, slots, best, segments] = memory_;
    if (threadIdx.x < 32) totals[lane()] = *tree_.root_leaves;
    __syncthreads();
    int64_t below_at = 0;  // slot of a position in the level below, less the position
    for (int32_t k = 0; k < levels.levels(); ++k) {
      const int32_t begin = levels.begin[k], end = levels.begin[k + 1];
      const int64_t at = int64_t(k % 2 == 0 ? 0 : *slots - (end - begin)) - begin;
      lanes_.each_node(begin, end, [&](int32_t q) {
        double sum = 0;
        int32_t count = 0;
        tree_.each_child(q, [&](int32_t c) {
          if (c < tree_.leaves) {
            sum += tree_.leaf_cost(c, strength);
            count += 1;
          } else {
            const int64_t i = lanes_.index(c - tree_.leaves + below_at);
            sum += best[i];
            count += segments[i];
          }
        });
        const double cost = tree_.cost(q, strength);
        const bool split = sum < cost;
        if (!split) count = 1;
        if (k + 1 == levels.levels()) {  // the roots
          atomicAdd(&totals[lanes_.own()], count);
        } else {
          best[lanes_.index(q + at)] = split ? sum : cost;
          segments[lanes_.index(q + at)] = count;
        }
      });
      below_at = at;
      levels.sync(k, k + 1, lanes_.size());
    }
    return lanes_.holding(totals, max_tokens);
  }

 private:
  const CutTree<T>& tree_;
  Memory memory_;
  StrengthLanes lanes_;
};

// The same for greedy cuts. All nodes at once look one generation further, up to `lookahead`.
template <typename T>
class GreedyCounter {
 public:
  static constexpr int kBits = 2;

  struct Memory {
    int32_t* totals;      // [32]
    double *best, *next;  // [I,4] cost of the best cut within so many generations, and one more
    int32_t* segments;    // [I,4]

    DHVT_HD Memory(Arena& arena, int64_t inner)
        : totals(arena.take<int32_t>(32)),
          best(arena.take<double>(inner << kBits)),
          next(arena.take<double>(inner << kBits)),
          segments(arena.take<int32_t>(inner << kBits)) {}
  };

  __device__ GreedyCounter(const CutTree<T>& tree, Arena arena, int64_t lookahead, double min_gain, bool* kept)
      : tree_(tree), memory_(arena, tree.inner), lookahead_(lookahead), min_gain_(min_gain), kept_(kept) {}

  __device__ const StrengthLanes& lanes() const { return lanes_; }

  // As above; kept [I] are the nodes that the first lane's cut does not split.
  __device__ unsigned operator()(double strength, int64_t max_tokens) const {
    auto [totals, best, next, segments] = memory_;
    const TreeLevels& levels = tree_.levels;
    const int32_t size = tree_.size();
    lanes_.each_node(0, size, [&](int32_t q) { best[lanes_.index(q)] = tree_.cost(q, strength); });
    if (threadIdx.x < 32) totals[lane()] = *tree_.root_leaves;
    __syncthreads();
    const auto below = [&](int32_t q) {
      return tree_.sum_children(
          q, [&](int32_t leaf) { return tree_.leaf_cost(leaf, strength); },
          [&](int32_t c) { return best[lanes_.index(c)]; });
    };
    const int64_t generations = lookahead_ < levels.levels() ? lookahead_ : levels.levels();  // there are no more
    for (int64_t g = 1; g < generations; ++g) {
      bool changed = false;
      lanes_.each_node(0, size, [&](int32_t q) {
        const double sum = below(q), cost = tree_.cost(q, strength), value = sum < cost ? sum : cost;
        changed |= value != best[lanes_.index(q)];
        next[lanes_.index(q)] = value;
      });
      double* const before = best;
      best = next;
      next = before;
      if (!__syncthreads_or(changed)) break;
    }
    for (int32_t k = 0; k < levels.levels(); ++k) {
      lanes_.each_node(levels.begin[k], levels.begin[k + 1], [&](int32_t q) {
        const bool split = tree_.cost(q, strength) - below(q) > min_gain_;
        int32_t count = split ? 0 : 1;
        if (split)
          tree_.each_child(
              q, [&](int32_t c) { count += c < tree_.leaves ? 1 : segments[lanes_.index(c - tree_.leaves)]; });
        segments[lanes_.index(q)] = count;
        if (lanes_.own() == 0) kept_[q] = !split;
        if (k + 1 == levels.levels()) atomicAdd(&totals[lanes_.own()], count);
      });
      levels.sync(k, k + 1, lanes_.size());
    }
    return lanes_.holding(totals, max_tokens);
  }

 private:
  const CutTree<T>& tree_;
  Memory memory_;
  int64_t lookahead_;
  double min_gain_;
  bool* kept_;
  StrengthLanes lanes_{kBits};
};

// The least strength, as a float32 not below `from`, whose cut holds the budget; none: not even the largest does.
// Non-negative floats are ordered as their bits are, so [from, largest] is halved until its ends are neighbours, the
// upper of which holds the budget. One pass halves as often as its lanes have bits: all the middles that may come are
// their strengths, lane i having heap node i + 1, and the last lane sees to the ends.
template <typename Counter>
__device__ float least_strength(const Counter& count, float from, int64_t max_tokens, bool& none) {
  constexpr float largest = std::numeric_limits<float>::max();
  const unsigned lanes = unsigned(count.lanes().size()), own = unsigned(count.lanes().own());
  uint32_t low = std::bit_cast<uint32_t>(from), high = std::bit_cast<uint32_t>(largest);
  for (int pass = 0;; ++pass) {
    uint32_t below = low, above = high;
    for (int bit = 30 - __clz(int(own + 1)); bit >= 0; --bit) {
      const uint32_t middle = below + (above - below) / 2;
      ((own + 1) >> bit & 1 ? below : above) = middle;
    }
    const float end = pass == 0 ? from : largest;
    const float strength = own == lanes - 1 ? end : std::bit_cast<float>(below + (above - below) / 2);
    const unsigned holds = count(double(strength), max_tokens);
    const bool end_holds = holds >> (lanes - 1) & 1;
    if (pass == 0 && end_holds) return from;
    none = pass == 1 && !end_holds;
    if (none) return largest;
    for (unsigned i = 1; i < lanes && high - low > 1;) {
      const uint32_t middle = low + (high - low) / 2;
      const bool middle_holds = holds >> (i - 1) & 1;
      (middle_holds ? high : low) = middle;
      i = 2 * i + (middle_holds ? 0 : 1);
    }
    if (pass > 0 && high - low <= 1) return std::bit_cast<float>(high);
  }
}

}  // namespace dhvt
