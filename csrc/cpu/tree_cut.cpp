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

// The dynamic program of one tree; its scratch is reused for every strength.
struct Cut {
  const CutTree& tree;
  std::vector<double> cost, below;  // cost of the node; the sum of its children's best
  std::vector<char> kept;           // the node ends a walk down from the roots

  explicit Cut(const CutTree& tree) : tree(tree), cost(tree.nodes), below(tree.nodes), kept(tree.nodes) {}

  void costs(double strength) {
    for (int64_t v = 0; v < tree.nodes; ++v) cost[v] = tree.used[v] ? tree.cost(v, strength) : 0.0;
  }

  // best(v) = min(cost(v), sum of best(children)), children before parents. Ties keep the parent: fewer tokens.
  void optimal(double strength) {
    costs(strength);
    std::fill(below.begin(), below.end(), 0.0);
    for (int64_t v = 0; v < tree.nodes; ++v) {
      if (!tree.used[v]) continue;
      kept[v] = v < tree.leaves || !(below[v] < cost[v]);
      if (tree.parent[v] >= 0) below[tree.parent[v]] += kept[v] ? cost[v] : below[v];
    }
  }

  // After optimal(), of an inner node.
  Shares shares(int64_t v, double temperature) const { return relaxed_shares((cost[v] - below[v]) / temperature); }

  void sum_children(const std::vector<double>& values, std::vector<double>& sums) const {
    std::fill(sums.begin(), sums.end(), 0.0);
    for (int64_t v = 0; v < tree.nodes; ++v)
      if (tree.used[v] && tree.parent[v] >= 0) sums[tree.parent[v]] += values[v];
  }

  // A node is split while its best cut within `lookahead` generations gains more than min_gain.
  void greedy(double strength, int64_t lookahead, double min_gain) {
    costs(strength);
    std::vector<double>&best = best_, &scratch = scratch_;
    best = cost;
    scratch.resize(tree.nodes);
    for (int64_t g = 1; g < lookahead; ++g) {
      sum_children(best, scratch);
      bool changed = false;
      for (int64_t v = tree.leaves; v < tree.nodes; ++v) {
        if (!tree.used[v]) continue;
        const double value = scratch[v] < cost[v] ? scratch[v] : cost[v];
        changed |= value != best[v];
        best[v] = value;
      }
      if (!changed) break;  // deeper than the tree
    }
    sum_children(best, scratch);
    for (int64_t v = 0; v < tree.nodes; ++v) kept[v] = v < tree.leaves || !(cost[v] - scratch[v] > min_gain);
  }

  // The number of segments: nodes that are kept and below none that is. `open` marks the nodes above the cut.
  int64_t count() {
    int64_t segments = 0;
    std::vector<char>& open = open_;
    open.resize(tree.nodes);
    for (int64_t v = tree.nodes - 1; v >= 0; --v) {
      const bool reached = tree.used[v] && (tree.parent[v] < 0 || open[tree.parent[v]]);
      open[v] = reached && !kept[v];
      segments += reached && kept[v];
    }
    return segments;
  }

 private:
  std::vector<double> best_, scratch_;
  std::vector<char> open_;
};

// Counts segments of optimal cuts, at several strengths in one pass over the tree.
class Counter {
 public:
  explicit Counter(const CutTree& tree)
      : tree_(tree), parent_(tree.nodes), sums_(new CutSums[tree.nodes - tree.leaves + 2]) {
    const int64_t inner = tree.nodes - tree.leaves;
    for (int64_t v = 0; v < tree.nodes; ++v)
      parent_[v] = static_cast<int32_t>(!tree.used[v]        ? inner + 1
                                        : tree.parent[v] < 0 ? inner
                                                             : tree.parent[v] - tree.leaves);
  }

  std::array<int64_t, kStrengths> count(const std::array<float, kStrengths>& strengths) {
    double values[kStrengths];
    std::copy_n(strengths.begin(), kStrengths, values);
    std::array<int64_t, kStrengths> segments;
    DHVT_AT_LEVEL(count_segments)
    (tree_.leaves, tree_.nodes, tree_.likelihood.data(), tree_.penalty.data(), parent_.data(), values, sums_.get(),
     segments.data());
    return segments;
  }

 private:
  const CutTree& tree_;
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
float choose(Cut& cut, const CutOptions& options) {
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
    least = least_strength(Counter(cut.tree), options.max_tokens, options.strength, largest);
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

// One task per image.
template <typename T>
void cut_image(const CutTask<T>& task, const CutOptions& options) {
  const auto& [leaves, nodes, likelihood, penalty, parent, round, segment, node, count, strength, probability] = task;
  const CutTree tree(nodes, likelihood, penalty, parent, round);
  Cut cut(tree);
  *strength = choose(cut, options);
  const std::vector<char> kept = cut.kept;
  if (options.greedy) cut.optimal(*strength);  // the relaxed cut is that of optimal()
  // From the roots down: the node of the cut above each node; `passed` = probability that it and every ancestor split.
  const auto owner = std::make_unique_for_overwrite<int32_t[]>(tree.nodes);
  const auto passed = std::make_unique_for_overwrite<double[]>(tree.nodes);
  for (int64_t v = tree.nodes - 1; v >= 0; --v) {
    probability[v] = T(0);
    if (!tree.used[v]) continue;
    const int64_t p = tree.parent[v];
    const int32_t above = p >= 0 ? owner[p] : -1;
    owner[v] = above >= 0 ? above : kept[v] ? static_cast<int32_t>(v) : -1;
    const double reach = p < 0 ? 1.0 : passed[p];
    const Shares shares = v < tree.leaves ? Shares{0.0, 1.0} : cut.shares(v, options.temperature);
    passed[v] = reach * shares.split;
    probability[v] = T(shares.stays * reach);
  }
  std::vector<int32_t> id(tree.nodes, -1);
  int32_t next = 0;
  std::fill_n(node, tree.leaves, -1);
  for (int64_t leaf = 0; leaf < tree.leaves; ++leaf) {
    segment[leaf] = -1;
    if (!tree.used[leaf]) continue;
    const int32_t v = owner[leaf];
    if (id[v] < 0) {
      id[v] = next;
      node[next++] = v;
    }
    segment[leaf] = id[v];
  }
  *count = next;
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
  const CutTree tree(task.nodes, task.likelihood, task.penalty, task.parent, task.round);
  const double strength = *task.strength;
  const T* grad = task.grad_probability;
  Cut cut(tree);
  cut.optimal(strength);
  const int64_t nodes = tree.nodes;
  std::vector<Shares> shares(nodes, Shares{0.0, 1.0});
  std::vector<double> reach(nodes, 0.0), grad_reach(nodes, 0.0), grad_gap(nodes, 0.0);
  for (int64_t v = nodes - 1; v >= 0; --v) {
    if (!tree.used[v]) continue;
    const int64_t p = tree.parent[v];
    reach[v] = p < 0 ? 1.0 : reach[p] * shares[p].split;
    if (v >= tree.leaves) shares[v] = cut.shares(v, temperature);
  }
  std::vector<double> grad_below(nodes, 0.0);  // sum of the children's derivatives to reach
  for (int64_t v = 0; v < nodes; ++v) {
    if (!tree.used[v]) continue;
    grad_reach[v] = reach_gradient(grad[v], grad_below[v], shares[v]);
    grad_gap[v] = gap_gradient(grad[v], grad_below[v], shares[v], reach[v], temperature);
    if (tree.parent[v] >= 0) grad_below[tree.parent[v]] += grad_reach[v];
  }
  std::vector<double> grad_best(nodes, 0.0);
  for (int64_t v = nodes - 1; v >= 0; --v) {
    task.grad_likelihood[v] = task.grad_penalty[v] = T(0);
    if (!tree.used[v]) continue;
    const int64_t p = tree.parent[v];
    if (p >= 0) grad_best[v] = grad_gap[p] + (cut.kept[p] ? 0.0 : grad_best[p]);
    const double grad_cost = (cut.kept[v] ? grad_best[v] : 0.0) - grad_gap[v];
    task.grad_likelihood[v] = T(tree.finite[v] ? grad_cost : 0.0);
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
