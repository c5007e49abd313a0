// The least strength whose cut holds a budget: 32 strengths at a time, one per lane.
#pragma once

#include <bit>
#include <limits>

#include "cuda/cut_tree.cuh"

namespace dhvt {

// Counts segments of optimal cuts. A warp takes one node after the other of a level, for all strengths; only the levels
// of a node and of its children are in memory, one from either end.
template <typename T>
class OptimalCounter {
 public:
  struct Memory {
    int32_t* totals;    // [32]
    int32_t* slots;     // one number: nodes of the two neighbouring levels that have most
    double* best;       // [slots,32] cost of the best cut below a node
    int32_t* segments;  // [slots,32] of that cut

    // At most `inner` slots; the device, which knows the levels, takes less.
    DHVT_HD Memory(Arena& arena, int64_t inner) : totals(arena.take<int32_t>(32)), slots(arena.take<int32_t>(1)) {
      take_slots(arena, inner);
    }
    DHVT_HD void take_slots(Arena arena, int64_t n) {
      best = arena.take<double>(n * 32);
      segments = arena.take<int32_t>(n * 32);
      global_bytes = arena.global_bytes();
    }

    size_t global_bytes;
  };

  __device__ OptimalCounter(const CutTree<T>& tree, Arena arena) : tree_(tree), memory_(arena, 0) {
    const TreeLevels& levels = tree.levels;
    if (threadIdx.x == 0) *memory_.slots = 0;
    __syncthreads();
    each(levels.levels(),
         [&](int64_t k) { atomicMax(memory_.slots, levels.begin[k + 1] - levels.begin[k > 0 ? k - 1 : 0]); });
    __syncthreads();
    memory_.take_slots(arena, *memory_.slots);
  }

  // Which lanes' cuts, at a strength each, have at most max_tokens segments.
  __device__ unsigned operator()(double strength, int64_t max_tokens) const {
    const TreeLevels& levels = tree_.levels;
    const auto& [totals, slots, best, segments, _] = memory_;
    if (threadIdx.x < 32) totals[lane()] = *tree_.root_leaves;
    __syncthreads();
    int64_t below_at = 0;  // slot of a position in the level below, less the position
    for (int32_t k = 0; k < levels.levels(); ++k) {
      const int32_t begin = levels.begin[k], end = levels.begin[k + 1];
      const int64_t at = int64_t(k % 2 == 0 ? 0 : *slots - (end - begin)) - begin;
      for (int32_t q = begin + int32_t(threadIdx.x / 32); q < end; q += int32_t(blockDim.x / 32)) {
        double sum = 0;
        int32_t count = 0;
        tree_.each_child(q, [&](int32_t c) {
          if (c < tree_.leaves) {
            sum += tree_.leaf_cost(c, strength);
            count += 1;
          } else {
            const int64_t i = (c - tree_.leaves + below_at) * 32 + lane();
            sum += best[i];
            count += segments[i];
          }
        });
        const double cost = tree_.cost(q, strength);
        const bool split = sum < cost;
        if (!split) count = 1;
        if (k + 1 == levels.levels()) {  // the roots
          atomicAdd(&totals[lane()], count);
        } else {
          best[(q + at) * 32 + lane()] = split ? sum : cost;
          segments[(q + at) * 32 + lane()] = count;
        }
      }
      below_at = at;
      __syncthreads();
    }
    const unsigned holds = __ballot_sync(kAllLanes, totals[lane()] <= max_tokens);
    __syncthreads();
    return holds;
  }

 private:
  const CutTree<T>& tree_;
  Memory memory_;
};

// The same for greedy cuts. All nodes at once look one generation further, up to `lookahead`.
template <typename T>
class GreedyCounter {
 public:
  struct Memory {
    int32_t* totals;      // [32]
    double *best, *next;  // [I,32] cost of the best cut within so many generations, and one more
    int32_t* segments;    // [I,32]
    size_t global_bytes;

    DHVT_HD Memory(Arena arena, int64_t inner)
        : totals(arena.take<int32_t>(32)),
          best(arena.take<double>(inner * 32)),
          next(arena.take<double>(inner * 32)),
          segments(arena.take<int32_t>(inner * 32)),
          global_bytes(arena.global_bytes()) {}
  };

  __device__ GreedyCounter(const CutTree<T>& tree, const Arena& arena, int64_t lookahead, double min_gain, bool* kept)
      : tree_(tree), memory_(arena, tree.inner), lookahead_(lookahead), min_gain_(min_gain), kept_(kept) {}

  // As above; kept [I] are the nodes that the first lane's cut does not split.
  __device__ unsigned operator()(double strength, int64_t max_tokens) const {
    auto [totals, best, next, segments, _] = memory_;
    const TreeLevels& levels = tree_.levels;
    each_node(0, tree_.size(), [&](int32_t q) { best[index(q)] = tree_.cost(q, strength); });
    if (threadIdx.x < 32) totals[lane()] = *tree_.root_leaves;
    __syncthreads();
    const auto below = [&](int32_t q) {
      return tree_.sum_children(
          q, [&](int32_t leaf) { return tree_.leaf_cost(leaf, strength); }, [&](int32_t c) { return best[index(c)]; });
    };
    const int64_t generations = lookahead_ < levels.levels() ? lookahead_ : levels.levels();  // there are no more
    for (int64_t g = 1; g < generations; ++g) {
      bool changed = false;
      each_node(0, tree_.size(), [&](int32_t q) {
        const double sum = below(q), cost = tree_.cost(q, strength), value = sum < cost ? sum : cost;
        changed |= value != best[index(q)];
        next[index(q)] = value;
      });
      double* const before = best;
      best = next;
      next = before;
      if (!__syncthreads_or(changed)) break;
    }
    for (int32_t k = 0; k < levels.levels(); ++k) {
      each_node(levels.begin[k], levels.begin[k + 1], [&](int32_t q) {
        const bool split = tree_.cost(q, strength) - below(q) > min_gain_;
        int32_t count = 0;
        tree_.each_child(q, [&](int32_t c) { count += c < tree_.leaves ? 1 : segments[index(c - tree_.leaves)]; });
        segments[index(q)] = split ? count : 1;
        if (lane() == 0) kept_[q] = !split;
        if (k + 1 == levels.levels()) atomicAdd(&totals[lane()], segments[index(q)]);
      });
      __syncthreads();
    }
    const unsigned holds = __ballot_sync(kAllLanes, totals[lane()] <= max_tokens);
    __syncthreads();
    return holds;
  }

 private:
  template <typename Body>
  __device__ static void each_node(int32_t begin, int32_t end, const Body& body) {
    for (int32_t q = begin + int32_t(threadIdx.x / 32); q < end; q += int32_t(blockDim.x / 32)) body(q);
  }
  __device__ static int64_t index(int32_t q) { return int64_t(q) * 32 + lane(); }

  const CutTree<T>& tree_;
  Memory memory_;
  int64_t lookahead_;
  double min_gain_;
  bool* kept_;
};

// The least strength, as a float32 not below `from`, whose cut holds the budget; none: not even the largest does.
// Non-negative floats are ordered as their bits are, so [from, largest] is halved until its ends are neighbours, the
// upper of which holds the budget. Five halvings in one pass: their 31 middles are the lanes' strengths, lane i having
// heap node i + 1, and the last lane sees to the ends.
template <typename Counter>
__device__ float least_strength(const Counter& count, float from, int64_t max_tokens, bool& none) {
  constexpr float largest = std::numeric_limits<float>::max();
  uint32_t low = std::bit_cast<uint32_t>(from), high = std::bit_cast<uint32_t>(largest);
  for (int pass = 0;; ++pass) {
    uint32_t below = low, above = high;
    const unsigned heap_node = unsigned(lane()) + 1;
    for (int bit = 30 - __clz(int(heap_node)); bit >= 0; --bit) {
      const uint32_t middle = below + (above - below) / 2;
      (heap_node >> bit & 1 ? below : above) = middle;
    }
    const float own = lane() == 31 ? (pass == 0 ? from : largest) : std::bit_cast<float>(below + (above - below) / 2);
    const unsigned holds = count(double(own), max_tokens);
    const bool end_holds = holds >> 31;
    if (pass == 0 && end_holds) return from;
    none = pass == 1 && !end_holds;
    if (none) return largest;
    for (unsigned i = 1; i < 32 && high - low > 1;) {
      const uint32_t middle = low + (high - low) / 2;
      const bool holds_there = holds >> (i - 1) & 1;
      (holds_there ? high : low) = middle;
      i = 2 * i + (holds_there ? 0 : 1);
    }
    if (pass > 0 && high - low <= 1) return std::bit_cast<float>(high);
  }
}

}  // namespace dhvt
