// The cut of least cost through a tree, its budget, and the probabilities of the relaxed cut with their gradients.
#include "cuda/cut_search.cuh"
#include "cuda/launch.cuh"
#include "cuda/scan.cuh"
#include "tree_cut_host.h"

namespace dhvt {
namespace {

// What is needed after the search, in the place of what that needs.
struct CutMemory {
  CutCosts costs;
  int32_t* owner;   // [L + I] position of the inner node of the cut that is above a node or is it; -1 for none
  int32_t* lowest;  // [I] the lowest leaf below a node of the cut
  int32_t* number;  // [I] its segment
  int32_t* counts;  // [33]

  DHVT_HD CutMemory(Arena& arena, int64_t leaves, int64_t inner)
      : costs(arena, inner),
        owner(arena.take<int32_t>(leaves + inner)),
        lowest(arena.take<int32_t>(inner)),
        number(arena.take<int32_t>(inner)),
        counts(arena.take<int32_t>(33)) {}
};

// Which nodes the cut does not split, and its strength.
template <typename T>
__device__ float choose(const CutTree<T>& tree, const CutOptions& options, const Arena& arena, bool* kept, bool& none) {
  float strength = options.strength;
  if (options.greedy) {
    const GreedyCounter<T> counter(tree, arena, options.lookahead, options.min_gain, kept);
    if (options.max_tokens > 0) strength = least_strength(counter, strength, options.max_tokens, none);
    counter(double(strength), 0);
  } else if (options.max_tokens > 0) {
    strength = least_strength(OptimalCounter<T>(tree, arena), strength, options.max_tokens, none);
  }
  return strength;
}

// Numbers the segments in the order of their lowest leaves.
template <typename T>
__device__ void number_segments(const CutTask<T>& task, const CutTree<T>& tree, const CutMemory& memory) {
  const int32_t leaves = tree.leaves;
  each(leaves, [&](int64_t i) {
    const int32_t p = tree.parent[i], owner = p >= 0 ? memory.owner[leaves + p] : -1;
    memory.owner[i] = owner;
    if (owner >= 0) atomicMin(&memory.lowest[owner], int32_t(i));
  });
  __syncthreads();
  int32_t total = 0;
  for (int32_t begin = 0; begin < leaves; begin += int32_t(blockDim.x)) {
    const int32_t i = begin + int32_t(threadIdx.x);
    const bool used = i < leaves && tree.parent[i] != -2;
    const int32_t owner = used ? memory.owner[i] : -1;
    const bool leads = used && (owner < 0 || memory.lowest[owner] == i);
    int32_t more;
    const int32_t id = total + block_prefix(leads, memory.counts, more);
    total += more;
    if (leads) task.node[id] = owner < 0 ? i : leaves + tree.levels.node[owner];
    if (leads && owner >= 0) memory.number[owner] = id;
    if (i < leaves && owner < 0) task.segment[i] = leads ? id : -1;
  }
  __syncthreads();
  each(leaves, [&](int64_t i) {
    if (memory.owner[i] >= 0) task.segment[i] = memory.number[memory.owner[i]];
    if (i >= total) task.node[i] = -1;
  });
  if (threadIdx.x == 0) *task.count = total;
}

// One block per image. Every step up or down the tree takes a barrier per level, some 30 of them: one step up per five
// halvings in the search of a budget, one for the costs, and one down, for probabilities and owners. The tree is in
// shared memory as far as there is room; reads and writes everything once, 48 bytes per leaf in float32.
template <typename T>
__global__ void __launch_bounds__(kMostTreeThreads, 1)
    tree_cut_kernel(CutTask<T> first, CutOptions options, int64_t batch, size_t shared_bytes, unsigned char* workspace,
                    size_t bytes_per_image) {
  for (int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    const CutTask<T> task = first.of_image(b);
    Arena arena(shared_memory<unsigned char>(), shared_bytes, workspace + b * bytes_per_image);
    const CutTree<T> tree(arena, task.leaves, task.nodes);
    bool* const kept = arena.take<bool>(tree.inner);
    tree.build(task.likelihood, task.penalty, task.parent, task.round, arena);
    bool none = false;
    const float strength = choose(tree, options, arena, kept, none);
    __syncthreads();
    const CutMemory memory(arena, tree.leaves, tree.inner);
    memory.costs.optimal(tree, strength);
    each(tree.size(), [&](int64_t i) {
      const int32_t q = int32_t(i);
      if (!options.greedy) kept[q] = memory.costs.is_kept(tree, q, strength);
      if (none) kept[q] = true;  // the roots
      memory.costs.relax(tree, q, strength, options.temperature);
      memory.lowest[q] = tree.leaves;
    });
    __syncthreads();
    double* const goes_on = memory.costs.below;  // probability that the children are reached, instead of the split
    int32_t* const owner = memory.owner + tree.leaves;
    tree.levels.downwards([&](int32_t q) {
      const int32_t p = tree.parent[tree.leaves + q];
      const double reach = p < 0 ? 1.0 : goes_on[p];
      const Shares shares = memory.costs.shares(q);
      task.probability[tree.leaves + tree.levels.node[q]] = T(shares.stays * reach);
      goes_on[q] = reach * shares.split;
      const int32_t above = p < 0 ? -1 : owner[p];
      owner[q] = above >= 0 ? above : kept[q] ? q : -1;
    });
    each(tree.leaves, [&](int64_t i) {
      const int32_t p = tree.parent[i];
      task.probability[i] = T(p == -2 ? 0.0 : p < 0 ? 1.0 : goes_on[p]);
    });
    each(tree.inner, [&](int64_t i) {
      if (tree.levels.position[i] < 0) task.probability[tree.leaves + i] = T(0);
    });
    number_segments(task, tree, memory);
    if (threadIdx.x == 0) *task.strength = strength;
    __syncthreads();
  }
}

Cuts tree_cut(const Tensor& likelihood, const Tensor& penalty, const Tensor& parent, const Tensor& round,
              std::string select, double strength, int64_t max_tokens, int64_t lookahead, double min_gain,
              double selection_temperature) {
  const Launcher launch(likelihood);
  return tree_cut_checked(
      likelihood, penalty, parent, round, select, strength, max_tokens, lookahead, min_gain, selection_temperature,
      [&]<typename T>(const CutTask<T>& task, const CutOptions& options, int64_t batch) {
        const auto bytes = [&](size_t shared) {
          Arena arena(nullptr, shared, nullptr);
          const CutTree<T> tree(arena, task.leaves, task.nodes);
          arena.take<bool>(tree.inner);
          Arena scratch = arena, search = arena, last = arena;
          typename CutTree<T>::Scratch(scratch, tree.inner, task.nodes);
          if (options.greedy)
            typename GreedyCounter<T>::Memory(search, tree.inner);
          else if (options.max_tokens > 0)
            typename OptimalCounter<T>::Memory(search, tree.inner);
          CutMemory(last, tree.leaves, tree.inner);
          return std::max({scratch.global_bytes(), search.global_bytes(), last.global_bytes()});
        };
        const size_t shared = std::min(launch.most_shared(), bytes(0));
        const Tensor workspace = empty({batch * int64_t(bytes(shared))}, ScalarType::Byte, likelihood);
        launch(tree_cut_kernel<T>, blocks_for(batch), tree_threads(task.leaves), shared, task, options, batch, shared,
               mutable_data<unsigned char>(workspace), bytes(shared));
      });
}

struct CutBackwardMemory {
  CutCosts costs;
  bool* kept;      // [I]
  double* reach;   // [I]
  double* passed;  // [I] derivative to `reach`; then that to `best`
  double* gap;     // [I] derivative to the gap

  DHVT_HD CutBackwardMemory(Arena& arena, int64_t inner)
      : costs(arena, inner),
        kept(arena.take<bool>(inner)),
        reach(arena.take<double>(inner)),
        passed(arena.take<double>(inner)),
        gap(arena.take<double>(inner)) {}
};

// One block per image: up the tree for the costs and for the derivatives to `reach`, and down for `reach` and for the
// derivatives to best(v), which go by its argmin. Reads and writes everything once, 56 bytes per leaf in float32.
template <typename T>
__global__ void __launch_bounds__(kMostTreeThreads, 1)
    tree_cut_backward_kernel(CutBackwardTask<T> first, double temperature, int64_t batch, size_t shared_bytes,
                             unsigned char* workspace, size_t bytes_per_image) {
  for (int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    const CutBackwardTask<T> task = first.of_image(b);
    Arena arena(shared_memory<unsigned char>(), shared_bytes, workspace + b * bytes_per_image);
    const CutTree<T> tree(arena, task.leaves, task.nodes);
    tree.build(task.likelihood, task.penalty, task.parent, task.round, arena);
    __syncthreads();
    const auto [costs, kept, reach, passed, gap] = CutBackwardMemory(arena, tree.inner);
    const double strength = *task.strength;
    constexpr Shares whole{0, 1};  // of a leaf
    const auto node = [&](int32_t q) { return tree.leaves + tree.levels.node[q]; };
    const auto parent = [&](int32_t q) { return tree.parent[tree.leaves + q]; };
    costs.optimal(tree, strength);
    each(tree.size(), [&](int64_t q) {
      kept[q] = costs.is_kept(tree, int32_t(q), strength);
      costs.relax(tree, int32_t(q), strength, temperature);
    });
    __syncthreads();
    const auto reached = [&](int32_t p) { return p < 0 ? 1.0 : reach[p] * costs.shares(p).split; };
    tree.levels.downwards([&](int32_t q) { reach[q] = reached(parent(q)); });
    tree.levels.upwards([&](int32_t q) {
      const double grad = task.grad_probability[node(q)];
      const double below = tree.sum_children(
          q, [&](int32_t leaf) { return reach_gradient(task.grad_probability[leaf], 0.0, whole); },
          [&](int32_t c) { return passed[c]; });
      passed[q] = reach_gradient(grad, below, costs.shares(q));
      gap[q] = gap_gradient(grad, below, costs.shares(q), reach[q], temperature);
    });
    const auto best_gradient = [&](int32_t p) { return p < 0 ? 0.0 : gap[p] + (kept[p] ? 0.0 : passed[p]); };
    tree.levels.downwards([&](int32_t q) { passed[q] = best_gradient(parent(q)); });
    const auto write = [&](int64_t v, double grad_cost) {
      task.grad_likelihood[v] = T(std::isfinite(task.likelihood[v]) ? grad_cost : 0.0);
      task.grad_penalty[v] = T(strength * grad_cost);
    };
    each(tree.inner, [&](int64_t i) {
      const int32_t q = tree.levels.position[i];
      if (q >= 0)
        write(tree.leaves + i, (kept[q] ? passed[q] : 0.0) - gap[q]);
      else
        task.grad_likelihood[tree.leaves + i] = task.grad_penalty[tree.leaves + i] = T(0);
    });
    each(tree.leaves, [&](int64_t i) {
      const int32_t p = tree.parent[i];
      if (p != -2)
        write(i, best_gradient(p) - gap_gradient(task.grad_probability[i], 0.0, whole, reached(p), temperature));
      else
        task.grad_likelihood[i] = task.grad_penalty[i] = T(0);
    });
    __syncthreads();
  }
}

std::tuple<Tensor, Tensor> tree_cut_backward(const Tensor& grad_probability, const Tensor& likelihood,
                                             const Tensor& penalty, const Tensor& parent, const Tensor& round,
                                             const Tensor& strength, double selection_temperature) {
  const Launcher launch(likelihood);
  return tree_cut_backward_checked(
      grad_probability, likelihood, penalty, parent, round, strength,
      [&]<typename T>(const CutBackwardTask<T>& task, int64_t batch) {
        const auto bytes = [&](size_t shared) {
          Arena arena(nullptr, shared, nullptr);
          const CutTree<T> tree(arena, task.leaves, task.nodes);
          Arena scratch = arena;
          typename CutTree<T>::Scratch(scratch, tree.inner, task.nodes);
          CutBackwardMemory(arena, tree.inner);
          return std::max(scratch.global_bytes(), arena.global_bytes());
        };
        const size_t shared = std::min(launch.most_shared(), bytes(0));
        const Tensor workspace = empty({batch * int64_t(bytes(shared))}, ScalarType::Byte, likelihood);
        launch(tree_cut_backward_kernel<T>, blocks_for(task.leaves > 0 ? batch : 0), tree_threads(task.leaves), shared,
               task, selection_temperature, batch, shared, mutable_data<unsigned char>(workspace), bytes(shared));
      });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) {
  m.impl("tree_cut", TORCH_BOX(&dhvt::tree_cut));
  m.impl("tree_cut_backward", TORCH_BOX(&dhvt::tree_cut_backward));
}
