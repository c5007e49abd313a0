// The strengths at which each node of a tree is in the cut of least cost.
#include "cuda/cut_tree.cuh"
#include "cuda/launch.cuh"
#include "scale_set_host.h"

namespace dhvt {
namespace {

// Inner nodes go by their position in the levels.
struct ScaleMemory {
  Below* below;  // [I] what the parent of each node sees of it
  HeapLinks* links;
  double* scale;
  CostLine* change;
  float* lower;  // [I]

  DHVT_HD ScaleMemory(Arena& arena, int64_t inner)
      : below(arena.take<Below>(inner)),
        links(arena.take<HeapLinks>(inner)),
        scale(arena.take<double>(inner)),
        change(arena.take<CostLine>(inner)),
        lower(arena.take<float>(inner)) {}
};

// One block per image, a thread per node of a level. Up the tree, with a heap of the slope changes below each node: a
// thread melds its children's and takes out what lies above its own scale, each change once in all. Then down, for the
// least scale above. The order of the heaps is total, so the result does not depend on their shape. 28 bytes per leaf
// in, 16 out.
template <typename T>
__global__ void __launch_bounds__(kMostTreeThreads, 1)
    scale_set_kernel(ScaleTask<T> first, int64_t batch, size_t shared_bytes, unsigned char* workspace,
                     size_t bytes_per_image) {
  for (int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    const ScaleTask<T> task = first.of_image(b);
    Arena arena(shared_memory<unsigned char>(), shared_bytes, workspace + b * bytes_per_image);
    const CutTree<T> tree(arena, task.leaves, task.nodes);
    tree.build(task.likelihood, task.penalty, task.parent, task.round, arena);
    __syncthreads();
    const auto [below, links, scale, change, lower] = ScaleMemory(arena, tree.inner);
    const auto above = [&](int32_t a, int32_t b) {
      return scale[a] > scale[b] || (scale[a] == scale[b] && tree.levels.node[a] > tree.levels.node[b]);
    };
    const ScaleNodes all{scale, change, links};
    tree.levels.upwards([&](int32_t q) {
      Below sum;
      tree.each_child(q, [&](int32_t c) {
        if (c < tree.leaves) {
          const CutTerms<T> leaf = tree.leaf_terms[c];
          sum.line += CostLine{double(leaf.likelihood), double(leaf.penalty)};
        } else {
          const Below child = below[c - tree.leaves];
          sum.line += child.line;
          sum.heap = meld(sum.heap, child.heap, links, above);
        }
      });
      below[q] = all.enter(q, CostLine{tree.terms[q].likelihood, tree.terms[q].penalty}, sum, above);
    });
    constexpr float never = std::numeric_limits<float>::infinity();
    const auto upper = [&](int32_t p) { return p < 0 ? never : lower[p]; };
    const auto write = [&](int64_t v, float own, float end) {
      task.upper[v] = end;
      return task.lower[v] = own < end ? own : end;
    };
    tree.levels.downwards([&](int32_t q) {
      lower[q] = write(tree.leaves + tree.levels.node[q], float_above(scale[q]), upper(tree.parent[tree.leaves + q]));
    });
    each(tree.inner, [&](int64_t i) {
      if (tree.levels.position[i] < 0) write(tree.leaves + i, never, never);
    });
    each(tree.leaves, [&](int64_t i) {
      const bool used = tree.parent[i] != -2;
      write(i, used ? 0.0f : never, used ? upper(tree.parent[i]) : never);
    });
    __syncthreads();
  }
}

std::tuple<Tensor, Tensor> scale_set(const Tensor& likelihood, const Tensor& penalty, const Tensor& parent,
                                     const Tensor& round) {
  const Launcher launch(likelihood);
  return scale_set_checked(
      likelihood, penalty, parent, round, [&]<typename T>(const ScaleTask<T>& task, int64_t batch) {
        const auto bytes = [&](size_t shared) {
          Arena arena(nullptr, shared, nullptr);
          const CutTree<T> tree(arena, task.leaves, task.nodes);
          Arena scratch = arena;
          typename CutTree<T>::Scratch(scratch, tree.inner, task.nodes);
          ScaleMemory(arena, tree.inner);
          return std::max(scratch.global_bytes(), arena.global_bytes());
        };
        const size_t shared = std::min(launch.most_shared(), bytes(0));
        const Tensor workspace = empty({batch * int64_t(bytes(shared))}, ScalarType::Byte, likelihood);
        launch(scale_set_kernel<T>, blocks_for(task.leaves > 0 ? batch : 0), tree_threads(task.leaves), shared, task,
               batch, shared, mutable_data<unsigned char>(workspace), bytes(shared));
      });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) { m.impl("scale_set", TORCH_BOX(&dhvt::scale_set)); }
