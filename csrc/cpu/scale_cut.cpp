// Cuts of a scale set: once per image the tree in preorder, where the leaves of a node are neighbours, and the
// strengths at which the largest budgets are met; then one task per cut, which visits its segments and writes its
// leaves.
#include "scale_cut_host.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <queue>
#include <utility>

#include "cpu/cut_tree.h"

namespace dhvt {
namespace {

// A node of one image's tree; the first after its subtree is `next`.
struct Entry {
  float birth;
  int32_t node, next;
  int32_t begin, end, lowest;  // its leaves, as positions in `order`, and the lowest of them
};

struct Preorder {
  std::vector<Entry> entries;
  std::vector<int32_t> order;  // leaves
  // Splitting the nodes with the greatest births, one after the other: the birth of each, and the segments then.
  struct Split {
    float birth;
    int64_t segments;
  };
  std::vector<Split> splits;
  int64_t roots = 0;
  int64_t leaves;

  Preorder(int64_t nodes, const float* lower, const int32_t* parent, const int32_t* round) {
    const CutForest forest(nodes, parent, round);
    leaves = forest.leaves;
    std::vector<int32_t> size(nodes), place(nodes);  // nodes of a subtree; where the next child goes
    std::vector<float> births(nodes);
    int32_t total = 0;
    for (int64_t v = 0; v < nodes; ++v) {
      if (!forest.used(v)) continue;
      const int32_t p = forest.parent[v];
      (p >= 0 ? size[p] : total) += ++size[v];
    }
    entries.resize(total);
    constexpr float never = std::numeric_limits<float>::infinity();
    int32_t next_root = 0;
    for (int64_t v = nodes - 1; v >= 0; --v) {
      if (!forest.used(v)) continue;
      const int32_t p = forest.parent[v];
      int32_t& at = p >= 0 ? place[p] : next_root;
      births[v] = birth(v < leaves, lower[v], p >= 0 ? births[p] : never);
      entries[at] = {births[v], static_cast<int32_t>(v), at + size[v], 0, 0, 0};
      place[v] = at + 1;
      at += size[v];
      roots += p < 0;
    }
    // Children of a node follow it, so its leaves are those from here to `next`.
    for (Entry& entry : entries) {
      entry.begin = static_cast<int32_t>(order.size());
      if (entry.node < leaves) order.push_back(entry.node);
    }
    for (int32_t i = total - 1; i >= 0; --i) {
      Entry& entry = entries[i];
      entry.end = entry.next < total ? entries[entry.next].begin : static_cast<int32_t>(order.size());
      entry.lowest = entry.node;
      if (entry.node < leaves) continue;
      each_child(i, [&](int32_t child) { entry.lowest = std::min(entry.lowest, entries[child].lowest); });
    }
  }

  template <typename Body>
  void each_child(int32_t entry, const Body& body) const {
    for (int32_t i = entry + 1; i < entries[entry].next; i = entries[i].next) body(i);
  }

  // Splits until there are more segments than the largest budget, or no birth is above the least strength of all.
  void split(int64_t largest_budget, float least_strength) {
    const auto later = [&](int32_t a, int32_t b) {
      return entries[a].birth < entries[b].birth || (entries[a].birth == entries[b].birth && a > b);
    };
    std::priority_queue<int32_t, std::vector<int32_t>, decltype(later)> open(later);
    const auto push = [&](int32_t i) {
      if (entries[i].node >= leaves && entries[i].birth > least_strength) open.push(i);
    };
    for (int32_t i = 0; i < int32_t(entries.size()); i = entries[i].next) push(i);
    for (int64_t segments = roots; !open.empty() && segments <= largest_budget;) {
      const int32_t top = open.top();
      open.pop();
      --segments;
      each_child(top, [&](int32_t child) {
        ++segments;
        push(child);
      });
      splits.push_back({entries[top].birth, segments});
    }
  }

  // The least strength from `least` on whose cut has at most so many segments; infinity if none has.
  float strength_of(int64_t max_tokens, float least) const {
    if (roots > max_tokens) return std::numeric_limits<float>::infinity();
    const auto over = std::partition_point(splits.begin(), splits.end(),
                                           [&](const Split& split) { return split.segments <= max_tokens; });
    return over == splits.end() ? least : std::max(least, over->birth);
  }
};

// The scratch of one cut.
struct Numbering {
  std::vector<uint64_t> leads;  // a bit per leaf: the lowest one of a segment
  std::vector<int32_t> entry;   // of the segment that a leaf leads

  explicit Numbering(int64_t leaves) : leads((leaves + 63) / 64), entry(leaves) {}
};

void write_cut(const ScaleCutTask& task, const Preorder& tree, int64_t n, int64_t b, Numbering& scratch) {
  const int64_t at = n * task.batch + b;
  int32_t* const segment = task.segment + at * task.leaves;
  int32_t* const node = task.node + at * task.capacity;
  float strength = valid_strength(task.least[n]);
  const int64_t budget = task.max_tokens[n];
  if (budget > 0) strength = tree.strength_of(budget, strength);
  const bool roots_only = strength > kLargestStrength;
  task.strength[at] = roots_only ? kLargestStrength : strength;
  const auto& entries = tree.entries;
  const int32_t total = static_cast<int32_t>(entries.size());
  for (int32_t i = 0; i < total;) {
    const bool whole = roots_only || entries[i].node < task.leaves || entries[i].birth <= strength;
    if (whole) {
      scratch.leads[entries[i].lowest / 64] |= uint64_t(1) << entries[i].lowest % 64;
      scratch.entry[entries[i].lowest] = i;
    }
    i = whole ? entries[i].next : i + 1;
  }
  if (int64_t(tree.order.size()) < task.leaves) std::fill_n(segment, task.leaves, -1);
  int32_t next = 0;
  for (size_t word = 0; word < scratch.leads.size(); ++word) {
    for (uint64_t bits = std::exchange(scratch.leads[word], 0); bits != 0; bits &= bits - 1) {
      const Entry& entry = entries[scratch.entry[word * 64 + std::countr_zero(bits)]];
      for (int32_t i = entry.begin; i < entry.end; ++i) segment[tree.order[i]] = next;
      if (next < task.capacity) node[next] = entry.node;
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
    std::vector<std::optional<Preorder>> trees(task.batch);
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
