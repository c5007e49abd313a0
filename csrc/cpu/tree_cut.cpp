// The cut of least cost through a tree, its budget, and the probabilities of the relaxed cut with their gradients.
#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <memory>

#include "cpu/cut_tree.h"
#include "cpu/levels/tree_cut_kernels.h"
#include "tree_cut_host.h"

namespace dhvt {
namespace {

constexpr int64_t kGrain = 2048;  // nodes per task: some 20 us of exponentials

// The dynamic program of one tree; its scratch is reused for every strength. C: double, or the caller's T.
template <typename C>
struct Cut {
  const CutForest& tree;
  const C *likelihood, *penalty;  // [V], finite
  std::vector<double> gap;        // of inner nodes: the cost less that of the children's best
  std::vector<char> kept;         // of inner nodes: it ends a walk down from the roots, as leaves do

  Cut(const CutForest& tree, const C* likelihood, const C* penalty)
      : tree(tree),
        likelihood(likelihood),
        penalty(penalty),
        gap(tree.nodes - tree.leaves),
        kept(tree.nodes - tree.leaves) {}

  double cost(int64_t v, double strength) const { return node_cost(likelihood[v], penalty[v], strength); }

  // best(v) = min(cost(v), sum of best(children)), children before parents. Ties keep the parent: fewer tokens.
  void optimal(double strength) {
    const int64_t leaves = tree.leaves;
    const int32_t* parent = tree.parent.data();
    double* below = gap.data();  // until the node's own turn
    std::fill(gap.begin(), gap.end(), 0.0);
    for (int64_t v = 0; v < leaves; ++v)
      if (parent[v] >= 0) below[parent[v] - leaves] += cost(v, strength);
    for (int64_t v = leaves; v < tree.nodes; ++v) {
      if (!tree.used(v)) continue;
      const double own = cost(v, strength), children = below[v - leaves];
      const bool keep = !(children < own);
      if (parent[v] >= 0) below[parent[v] - leaves] += keep ? own : children;
      gap[v - leaves] = own - children;
      kept[v - leaves] = keep;
    }
  }

  // A node is split while its best cut within `lookahead` generations gains more than min_gain.
  void greedy(double strength, int64_t lookahead, double min_gain) {
    std::vector<double>&best = best_, &sums = sums_;
    best.assign(tree.nodes, 0.0);
    for (int64_t v = 0; v < tree.nodes; ++v)
      if (tree.used(v)) best[v] = cost(v, strength);
    const auto sum_children = [&] {
      sums.assign(tree.nodes, 0.0);
      for (int64_t v = 0; v < tree.nodes; ++v)
        if (tree.parent[v] >= 0) sums[tree.parent[v]] += best[v];
    };
    for (int64_t g = 1; g < lookahead; ++g) {
      sum_children();
      bool changed = false;
      for (int64_t v = tree.leaves; v < tree.nodes; ++v) {
        if (!tree.used(v)) continue;
        const double own = cost(v, strength), value = sums[v] < own ? sums[v] : own;
        changed |= value != best[v];
        best[v] = value;
      }
      if (!changed) break;  // deeper than the tree
    }
    sum_children();
    for (int64_t v = tree.leaves; v < tree.nodes; ++v)
      kept[v - tree.leaves] = tree.used(v) && !(cost(v, strength) - sums[v] > min_gain);
  }

  // The number of segments: nodes that are kept and below none that is. `open` marks the nodes above the cut.
  int64_t count() {
    int64_t segments = 0;
    open_.resize(tree.nodes);
    for (int64_t v = tree.nodes - 1; v >= 0; --v) {
      const bool reached = tree.used(v) && (tree.parent[v] < 0 || open_[tree.parent[v]]);
      const bool ends = v < tree.leaves || kept[v - tree.leaves];
      open_[v] = reached && !ends;
      segments += reached && ends;
    }
    return segments;
  }

 private:
  std::vector<double> best_, sums_;
  std::vector<char> open_;
};

// Counts segments of optimal cuts, at several strengths in one pass over the tree.
class Counter {
 public:
  template <typename C>
  explicit Counter(const Cut<C>& cut)
      : tree_(cut.tree),
        likelihood_(cut.likelihood, cut.likelihood + tree_.nodes),
        penalty_(cut.penalty, cut.penalty + tree_.nodes),
        parent_(tree_.nodes),
        sums_(new CutSums[tree_.nodes - tree_.leaves + 2]) {
    const int64_t inner = tree_.nodes - tree_.leaves;
    for (int64_t v = 0; v < tree_.nodes; ++v)
      parent_[v] = static_cast<int32_t>(!tree_.used(v)        ? inner + 1
                                        : tree_.parent[v] < 0 ? inner
                                                              : tree_.parent[v] - tree_.leaves);
  }

  std::array<int64_t, kStrengths> count(const std::array<float, kStrengths>& strengths) {
    double values[kStrengths];
    std::copy_n(strengths.begin(), kStrengths, values);
    std::array<int64_t, kStrengths> segments;
    DHVT_AT_LEVEL(count_segments)
    (tree_.leaves, tree_.nodes, likelihood_.data(), penalty_.data(), parent_.data(), values, sums_.get(),
     segments.data());
    return segments;
  }

 private:
  const CutForest& tree_;
  std::vector<double> likelihood_, penalty_;
  std::vector<int32_t> parent_;
  std::unique_ptr<CutSums[]> sums_;
};

// Halves [low, largest] until they are neighbours, the upper of which holds the budget; none if `largest` does not.
// Three halvings in one pass: their seven middles lie at [1] (the first), [2, 3] (the second, below and above it) and
// [4, 7].
std::optional<float> least_strength(Counter counter, int64_t max_tokens, float above, float largest) {
  uint32_t low = std::bit_cast<uint32_t>(above), high = std::bit_cast<uint32_t>(largest);
  do {
    std::array<uint32_t, kStrengths> lows{0, low}, highs{0, high}, middle{};
    std::array<float, kStrengths> strengths{largest};
    for (size_t i = 1; i < kStrengths; ++i) {
      middle[i] = lows[i] + (highs[i] - lows[i]) / 2;
      strengths[i] = std::bit_cast<float>(middle[i]);
      if (2 * i + 1 >= kStrengths) continue;
      lows[2 * i] = lows[i], highs[2 * i] = middle[i];
      lows[2 * i + 1] = middle[i], highs[2 * i + 1] = highs[i];
    }
    const auto segments = counter.count(strengths);
    if (segments[0] > max_tokens) return std::nullopt;
    for (size_t i = 1; i < kStrengths && high - low > 1;) {
      const bool holds = segments[i] <= max_tokens;
      (holds ? high : low) = middle[i];
      i = 2 * i + (holds ? 0 : 1);
    }
  } while (high - low > 1);
  return std::bit_cast<float>(high);
}

// The least strength, as a float32, whose cut holds the budget: non-negative floats are ordered as their bits are, so
// 31 halvings find it. Leaves that cut in `cut.kept`.
template <typename C>
float choose(Cut<C>& cut, const CutOptions& options) {
  const auto make = [&](float strength) {
    if (options.greedy)
      cut.greedy(strength, options.lookahead, options.min_gain);
    else
      cut.optimal(strength);
  };
  const auto holds = [&](float strength) {
    make(strength);
    return options.max_tokens <= 0 || cut.count() <= options.max_tokens;
  };
  if (holds(options.strength)) return options.strength;
  constexpr float largest = std::numeric_limits<float>::max();
  std::optional<float> least;
  if (!options.greedy) {
    least = least_strength(Counter(cut), options.max_tokens, options.strength, largest);
  } else if (holds(largest)) {
    uint32_t low = std::bit_cast<uint32_t>(options.strength), high = std::bit_cast<uint32_t>(largest);
    while (high - low > 1) {
      const uint32_t middle = low + (high - low) / 2;
      (holds(std::bit_cast<float>(middle)) ? high : low) = middle;
    }
    least = std::bit_cast<float>(high);
  }
  make(least.value_or(largest));
  if (!least) std::fill(cut.kept.begin(), cut.kept.end(), 1);  // the roots
  return least.value_or(largest);
}

// From the roots down: the node of the cut above each node, -1 for none, and the probability that a node and all above
// it split. From the leaves up again: segments, in the order of their lowest leaves.
template <typename T, typename C>
void write_cut(const CutTask<T>& task, const Cut<C>& cut, const std::vector<char>& kept, double temperature) {
  const CutForest& tree = cut.tree;
  const int64_t leaves = tree.leaves, inner = tree.nodes - leaves;
  const int32_t* parent = tree.parent.data();
  const auto odds = std::make_unique_for_overwrite<double[]>(inner);
  parallel(inner, [&](int64_t i) { odds[i] = relaxed_odds(cut.gap[i] / temperature); }, kGrain);
  const auto owner = std::make_unique_for_overwrite<int32_t[]>(inner);
  const auto passed = std::make_unique_for_overwrite<double[]>(inner);
  for (int64_t v = tree.nodes - 1; v >= leaves; --v) {
    const int64_t i = v - leaves, p = parent[v] - leaves;
    task.probability[v] = T(0);
    if (!tree.used(v)) continue;
    const bool is_root = parent[v] < 0;
    const int32_t above = is_root ? -1 : owner[p];
    owner[i] = above >= 0 ? above : kept[i] ? static_cast<int32_t>(v) : -1;
    const double reach = is_root ? 1.0 : passed[p];
    const Shares shares = relaxed_shares(odds[i]);
    passed[i] = reach * shares.split;
    task.probability[v] = T(shares.stays * reach);
  }
  std::vector<int32_t> id(inner, -1);
  int32_t next = 0;
  for (int64_t leaf = 0; leaf < leaves; ++leaf) {
    const int64_t p = parent[leaf] - leaves;
    const bool is_used = tree.used(leaf), is_root = parent[leaf] < 0;
    task.probability[leaf] = T(!is_used ? 0.0 : is_root ? 1.0 : passed[p]);
    const int32_t above = is_root ? -1 : owner[p];
    int32_t segment = -1;
    if (above >= 0) segment = id[above - leaves];
    if (is_used && segment < 0) {
      segment = next++;
      task.node[segment] = above >= 0 ? above : static_cast<int32_t>(leaf);
      if (above >= 0) id[above - leaves] = segment;
    }
    task.segment[leaf] = segment;
  }
  std::fill(task.node + next, task.node + leaves, -1);
  *task.count = next;
}

// One task per image.
template <typename T>
void cut_image(const CutTask<T>& task, const CutOptions& options) {
  const CutForest tree(task.nodes, task.parent, task.round);
  with_finite_terms(tree, task.likelihood, task.penalty, [&](const auto* likelihood, const auto* penalty) {
    Cut cut(tree, likelihood, penalty);
    *task.strength = choose(cut, options);
    if (!options.greedy) return write_cut(task, cut, cut.kept, options.temperature);
    const std::vector<char> kept = cut.kept;
    cut.optimal(*task.strength);  // the relaxed cut is that of optimal()
    write_cut(task, cut, kept, options.temperature);
  });
}

Cuts tree_cut(const Tensor& likelihood, const Tensor& penalty, const Tensor& parent, const Tensor& round,
              std::string select, double strength, int64_t max_tokens, int64_t lookahead, double min_gain,
              double selection_temperature) {
  return tree_cut_checked(likelihood, penalty, parent, round, select, strength, max_tokens, lookahead, min_gain,
                          selection_temperature, [](const auto& task, const CutOptions& options, int64_t batch) {
                            parallel(batch, [&](int64_t b) { cut_image(task.of_image(b), options); });
                          });
}

// One image. Upwards: the derivative to `reach`, and so to each node's sigmoid; downwards: through best(v) by its
// argmin.
template <typename T>
void cut_image_backward(const CutBackwardTask<T>& task, double temperature) {
  const CutForest tree(task.nodes, task.parent, task.round);
  const double strength = *task.strength;
  const T* grad = task.grad_probability;
  const int64_t nodes = tree.nodes, leaves = tree.leaves;
  std::vector<Shares> shares(nodes, Shares{0.0, 1.0});
  std::vector<char> kept(nodes, 1);
  with_finite_terms(tree, task.likelihood, task.penalty, [&](const auto* likelihood, const auto* penalty) {
    Cut cut(tree, likelihood, penalty);
    cut.optimal(strength);
    for (int64_t v = leaves; v < nodes; ++v)
      shares[v] = relaxed_shares(relaxed_odds(cut.gap[v - leaves] / temperature));
    std::copy(cut.kept.begin(), cut.kept.end(), kept.begin() + leaves);
  });
  std::vector<double> reach(nodes, 0.0), grad_reach(nodes, 0.0), grad_gap(nodes, 0.0);
  for (int64_t v = nodes - 1; v >= 0; --v) {
    if (!tree.used(v)) continue;
    const int64_t p = tree.parent[v];
    reach[v] = p < 0 ? 1.0 : reach[p] * shares[p].split;
  }
  std::vector<double> grad_below(nodes, 0.0);  // sum of the children's derivatives to reach
  for (int64_t v = 0; v < nodes; ++v) {
    if (!tree.used(v)) continue;
    grad_reach[v] = reach_gradient(grad[v], grad_below[v], shares[v]);
    grad_gap[v] = gap_gradient(grad[v], grad_below[v], shares[v], reach[v], temperature);
    if (tree.parent[v] >= 0) grad_below[tree.parent[v]] += grad_reach[v];
  }
  std::vector<double> grad_best(nodes, 0.0);
  for (int64_t v = nodes - 1; v >= 0; --v) {
    task.grad_likelihood[v] = task.grad_penalty[v] = T(0);
    if (!tree.used(v)) continue;
    const int64_t p = tree.parent[v];
    if (p >= 0) grad_best[v] = grad_gap[p] + (kept[p] ? 0.0 : grad_best[p]);
    const double grad_cost = (kept[v] ? grad_best[v] : 0.0) - grad_gap[v];
    task.grad_likelihood[v] = T(std::isfinite(task.likelihood[v]) ? grad_cost : 0.0);
    task.grad_penalty[v] = T(strength * grad_cost);
  }
}

std::tuple<Tensor, Tensor> tree_cut_backward(const Tensor& grad_probability, const Tensor& likelihood,
                                             const Tensor& penalty, const Tensor& parent, const Tensor& round,
                                             const Tensor& strength, double selection_temperature) {
  return tree_cut_backward_checked(
      grad_probability, likelihood, penalty, parent, round, strength, [&](const auto& task, int64_t batch) {
        parallel(batch, [&](int64_t b) { cut_image_backward(task.of_image(b), selection_temperature); });
      });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("tree_cut", TORCH_BOX(&dhvt::tree_cut));
  m.impl("tree_cut_backward", TORCH_BOX(&dhvt::tree_cut_backward));
}
