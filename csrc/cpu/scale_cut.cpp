// Cuts of a scale set: once per image the children of each node, an order of the leaves in which those of a node are
// neighbours, and the strengths at which the largest budgets are met; then one task per cut, which visits the nodes
// down to its segments and writes its leaves.
#include "scale_cut_host.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <queue>
#include <utility>

#include "cpu/cut_tree.h"

namespace dhvt {
namespace {

// An internal node of one image's tree.
struct Inner {
  float birth;
  int32_t first;                // child, of a list
  int32_t begin, size, lowest;  // its leaves, as positions in `order`, and the lowest of them
};

struct Nested {
  int64_t leaves;
  std::vector<int32_t> roots;
  std::vector<Inner> inner;
  std::vector<int32_t> next;   // of each node: its next sibling, -1 for none
  std::vector<int32_t> order;  // leaves
  // Splitting the nodes with the greatest births, one after the other: the birth of each, and the segments then.
  struct Split {
    float birth;
    int64_t segments;
  };
  std::vector<Split> splits;

  Nested(int64_t nodes, const float* lower, const int32_t* parent, const int32_t* round) {
    const CutForest forest(nodes, parent, round);
    leaves = forest.leaves;
    inner.assign(nodes - leaves, {0.0f, -1, 0, 0, std::numeric_limits<int32_t>::max()});
    next.assign(nodes, -1);
    int32_t total = 0;
    for (int64_t i = 0; i < nodes; ++i) {
      if (!forest.used(i)) continue;
      const auto v = static_cast<int32_t>(i);
      const int32_t p = forest.parent[v], size = is_leaf(v) ? 1 : of(v).size;
      if (p < 0) {
        roots.push_back(v);
        total += size;
        continue;
      }
      Inner& above = of(p);
      above.size += size;
      above.lowest = std::min(above.lowest, is_leaf(v) ? v : of(v).lowest);
      next[v] = std::exchange(above.first, v);
    }
    order.resize(total);
    constexpr float never = std::numeric_limits<float>::infinity();
    std::vector<int32_t> place(inner.size());  // where the next child goes
    int32_t next_root = 0;
    for (int64_t i = nodes - 1; i >= 0; --i) {
      if (!forest.used(i)) continue;
      const auto v = static_cast<int32_t>(i);
      const int32_t p = forest.parent[v];
      int32_t& at = p >= 0 ? place[p - leaves] : next_root;
      if (is_leaf(v)) {
        order[at++] = v;
        continue;
      }
      of(v).birth = birth(false, lower[v], p >= 0 ? of(p).birth : never);
      of(v).begin = place[v - leaves] = at;
      at += of(v).size;
    }
  }

  bool is_leaf(int32_t v) const { return v < leaves; }
  Inner& of(int32_t v) { return inner[v - leaves]; }
  const Inner& of(int32_t v) const { return inner[v - leaves]; }

  template <typename Body>
  void each_child(int32_t v, const Body& body) const {
    for (int32_t child = of(v).first; child >= 0; child = next[child]) body(child);
  }

  // Splits until there are more segments than the largest budget, or no birth is above the least strength of all.
  void split(int64_t largest_budget, float least_strength) {
    const auto later = [&](int32_t a, int32_t b) {
      return of(a).birth < of(b).birth || (of(a).birth == of(b).birth && a > b);
    };
    std::priority_queue<int32_t, std::vector<int32_t>, decltype(later)> open(later);
    const auto push = [&](int32_t v) {
      if (!is_leaf(v) && of(v).birth > least_strength) open.push(v);
    };
    for (const int32_t root : roots) push(root);
    for (auto segments = static_cast<int64_t>(roots.size()); !open.empty() && segments <= largest_budget;) {
      const int32_t top = open.top();
      open.pop();
      --segments;
      each_child(top, [&](int32_t child) {
        ++segments;
        push(child);
      });
      splits.push_back({of(top).birth, segments});
    }
  }

  // The least strength from `least` on whose cut has at most so many segments; infinity if none has.
  float strength_of(int64_t max_tokens, float least) const {
    if (static_cast<int64_t>(roots.size()) > max_tokens) return std::numeric_limits<float>::infinity();
    const auto over = std::partition_point(splits.begin(), splits.end(),
                                           [&](const Split& split) { return split.segments <= max_tokens; });
    return over == splits.end() ? least : std::max(least, over->birth);
  }
};

// The scratch of one cut.
struct Numbering {
  std::vector<uint64_t> leads;  // a bit per leaf: the lowest one of a segment
  std::vector<int32_t> node;    // of the segment that a leaf leads
  std::vector<int32_t> open;    // nodes to visit

  explicit Numbering(int64_t leaves) : leads((leaves + 63) / 64), node(leaves) {}
};

void write_cut(const ScaleCutTask& task, const Nested& tree, int64_t n, int64_t b, Numbering& scratch) {
  const int64_t at = n * task.batch + b;
  int32_t* const segment = task.segment + at * task.leaves;
  int32_t* const node = task.node + at * task.capacity;
  float strength = valid_strength(task.least[n]);
  const int64_t budget = task.max_tokens[n];
  if (budget > 0) strength = tree.strength_of(budget, strength);
  const bool roots_only = strength > kLargestStrength;
  task.strength[at] = roots_only ? kLargestStrength : strength;
  for (scratch.open = tree.roots; !scratch.open.empty();) {
    const int32_t v = scratch.open.back();
    scratch.open.pop_back();
    if (roots_only || tree.is_leaf(v) || tree.of(v).birth <= strength) {
      const int32_t lowest = tree.is_leaf(v) ? v : tree.of(v).lowest;
      scratch.leads[lowest / 64] |= uint64_t(1) << lowest % 64;
      scratch.node[lowest] = v;
    } else {
      tree.each_child(v, [&](int32_t child) { scratch.open.push_back(child); });
    }
  }
  if (int64_t(tree.order.size()) < task.leaves) std::fill_n(segment, task.leaves, -1);
  int32_t next = 0;
  for (size_t word = 0; word < scratch.leads.size(); ++word) {
    for (uint64_t bits = std::exchange(scratch.leads[word], 0); bits != 0; bits &= bits - 1) {
      const int32_t v = scratch.node[word * 64 + std::countr_zero(bits)];
      if (tree.is_leaf(v)) {
        segment[v] = next;
      } else {
        const int32_t* leaf = tree.order.data() + tree.of(v).begin;
        for (int32_t i = 0; i < tree.of(v).size; ++i) segment[leaf[i]] = next;
      }
      if (next < task.capacity) node[next] = v;
      ++next;
    }
  }
  task.count[at] = next;
  if (next < task.capacity) std::fill(node + next, node + task.capacity, -1);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> scale_cut(const Tensor& lower, const Tensor& parent, const Tensor& round,
                                                     const Tensor& strength, const Tensor& max_tokens,
                                                     int64_t num_segments) {
  return scale_cut_checked(lower, parent, round, strength, max_tokens, num_segments, [](const ScaleCutTask& task) {
    int64_t largest_budget = 0;
    float least_strength = kLargestStrength;
    for (int64_t n = 0; n < task.cuts; ++n) {
      if (task.max_tokens[n] <= 0) continue;
      largest_budget = std::max<int64_t>(largest_budget, task.max_tokens[n]);
      least_strength = std::min(least_strength, valid_strength(task.least[n]));
    }
    std::vector<std::optional<Nested>> trees(task.batch);
    parallel(task.cuts > 0 ? task.batch : 0, [&](int64_t b) {
      const int64_t v = b * task.nodes;
      trees[b].emplace(task.nodes, task.lower + v, task.parent + v, task.round + v);
      if (largest_budget > 0) trees[b]->split(largest_budget, least_strength);
    });
    // A few cuts of one image after the other share the scratch.
    constexpr int64_t kGroup = 8;
    const int64_t groups = (task.cuts + kGroup - 1) / kGroup;
    parallel(task.batch * groups, [&](int64_t i) {
      const int64_t b = i / groups, begin = i % groups * kGroup;
      Numbering scratch(task.leaves);
      for (int64_t n = begin; n < std::min(task.cuts, begin + kGroup); ++n) write_cut(task, *trees[b], n, b, scratch);
    });
  });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("scale_cut", TORCH_BOX(&dhvt::scale_cut)); }
