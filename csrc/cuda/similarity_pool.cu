// Means up a tree, weighted by size times similarity, and their gradients down it.
#include "cuda/launch.cuh"
#include "cuda/tree_levels.cuh"
#include "similarity_pool_host.h"

namespace dhvt {
namespace {

// The merges of an image's tree, by level: 40 bytes per inner node.
struct PoolMerges {
  int64_t leaves, inner;
  int32_t* children;  // [I] their number
  int32_t* low;       // [I] the lower child
  uint32_t* sum;      // [I] of the children, so that the sum less the lower is the higher
  TreeLevels levels;
  TreeLevels::Scratch scratch;

  DHVT_HD PoolMerges(Arena& arena, int64_t leaves, int64_t inner)
      : leaves(leaves),
        inner(inner),
        children(arena.take<int32_t>(inner)),
        low(arena.take<int32_t>(inner)),
        sum(arena.take<uint32_t>(inner)),
        levels(arena, inner),
        scratch(arena, inner) {}

  __device__ void build(const PoolTree& tree) const {
    each(inner, [&](int64_t i) { children[i] = 0, low[i] = int32_t(tree.nodes), sum[i] = 0; });
    __syncthreads();
    each(tree.nodes, [&](int64_t v) {
      const int64_t p = tree.valid_parent(v);
      if (p < 0) return;
      atomicAdd(&children[p - leaves], 1);
      atomicMin(&low[p - leaves], int32_t(v));
      atomicAdd(&sum[p - leaves], uint32_t(v));
    });
    __syncthreads();
    levels.build(scratch, inner, [&](int64_t i) {
      const int64_t p = tree.valid_parent(leaves + i);
      return int32_t(p >= 0 && children[p - leaves] == 2 ? p - leaves : -1);
    });
  }

  // visit(node, lower child, higher child) at a position of the levels; nothing if there are not two children.
  template <typename Visit>
  __device__ void visit(int32_t position, const Visit& visit) const {
    const int32_t i = levels.node[position];
    if (children[i] == 2) visit(leaves + i, int64_t(low[i]), int64_t(sum[i] - uint32_t(low[i])));
  }
};

// One block per image: a thread per node of a level, from the leaves to the roots. Reads and writes the features about
// twice, 32 C bytes per leaf in float32.
template <typename T>
__global__ void __launch_bounds__(kMostTreeThreads, 1)
    similarity_pool_kernel(PoolTask<T> first, int64_t batch, size_t shared_bytes, unsigned char* workspace,
                           size_t bytes_per_image) {
  const int64_t leaves = first.tree.leaves, inner = first.tree.nodes - leaves;
  for (int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    const PoolTask<T> task = first.of_image(b);
    Arena arena(shared_memory<unsigned char>(), shared_bytes, workspace + b * bytes_per_image);
    PoolWeight* const weight = arena.take<PoolWeight>(inner);
    const PoolMerges merges(arena, leaves, inner);
    each(task.tree.nodes, [&](int64_t v) { task.start(v, weight); });
    merges.build(task.tree);
    merges.levels.upwards(
        [&](int32_t q) { merges.visit(q, [&](int64_t p, int64_t a, int64_t b) { task.join(p, a, b, weight); }); });
    __syncthreads();
  }
}

// The same from the roots down: a thread per node adds to the gradients of its two children.
template <typename T>
__global__ void __launch_bounds__(kMostTreeThreads, 1)
    similarity_pool_backward_kernel(PoolBackwardTask<T> first, int64_t batch, size_t shared_bytes,
                                    unsigned char* workspace, size_t bytes_per_image) {
  const int64_t leaves = first.tree.leaves, inner = first.tree.nodes - leaves;
  for (int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    const PoolBackwardTask<T> task = first.of_image(b);
    Arena arena(shared_memory<unsigned char>(), shared_bytes, workspace + b * bytes_per_image);
    double* const weight_grad = arena.take<double>(inner);
    const PoolMerges merges(arena, leaves, inner);
    T* const total = arena.take<T>(inner * task.tree.channels);
    each(task.tree.nodes, [&](int64_t v) { task.start(v, total, weight_grad); });
    merges.build(task.tree);
    merges.levels.downwards([&](int32_t q) {
      merges.visit(q, [&](int64_t p, int64_t a, int64_t b) { task.split(p, a, b, total, weight_grad); });
    });
    __syncthreads();
  }
}

// One launch with the scratch that `take(arena)` takes.
template <typename Task, typename Take>
void launch_pool(const Launcher& launch, void (*kernel)(Task, int64_t, size_t, unsigned char*, size_t),
                 const Task& task, int64_t batch, const Tensor& on, const Take& take) {
  const auto bytes = [&](size_t shared) {  // of the workspace
    Arena arena(nullptr, shared, nullptr);
    take(arena);
    return arena.global_bytes();
  };
  const size_t shared = std::min(launch.most_shared(), bytes(0));
  const Tensor workspace = empty({batch * int64_t(bytes(shared))}, ScalarType::Byte, on);
  const int64_t leaves = task.tree.leaves;
  launch(kernel, blocks_for(leaves > 0 ? batch : 0), tree_threads(leaves), shared, task, batch, shared,
         mutable_data<unsigned char>(workspace), bytes(shared));
}

std::tuple<Tensor, Tensor> similarity_pool(const Tensor& features, const Tensor& count, const Tensor& parent,
                                           const Tensor& round) {
  const Launcher launch(features);
  return similarity_pool_checked(
      features, count, parent, round, [&]<typename T>(const PoolTask<T>& task, int64_t batch) {
        launch_pool(launch, similarity_pool_kernel<T>, task, batch, features, [&](Arena& arena) {
          const int64_t inner = task.tree.nodes - task.tree.leaves;
          arena.take<PoolWeight>(inner);
          PoolMerges(arena, task.tree.leaves, inner);
        });
      });
}

Tensor similarity_pool_backward(const Tensor& grad, const Tensor& node_features, const Tensor& share,
                                const Tensor& count, const Tensor& parent, const Tensor& round) {
  const Launcher launch(node_features);
  return similarity_pool_backward_checked(grad, node_features, share, count, parent, round,
                                          [&]<typename T>(const PoolBackwardTask<T>& task, int64_t batch) {
                                            launch_pool(launch, similarity_pool_backward_kernel<T>, task, batch,
                                                        node_features, [&](Arena& arena) {
                                                          const int64_t inner = task.tree.nodes - task.tree.leaves;
                                                          arena.take<double>(inner);
                                                          PoolMerges(arena, task.tree.leaves, inner);
                                                          arena.take<T>(inner * task.tree.channels);
                                                        });
                                          });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) {
  m.impl("similarity_pool", TORCH_BOX(&dhvt::similarity_pool));
  m.impl("similarity_pool_backward", TORCH_BOX(&dhvt::similarity_pool_backward));
}
