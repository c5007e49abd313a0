// Best-neighbour merging of a region graph into a binary tree.
#include "cuda/merge_launch.cuh"
#include "merge_tree_host.h"

namespace dhvt {
namespace {

MergedTree merge_tree(const Tensor& count, const Tensor& mean, const Tensor& m2, const Tensor& centroid,
                      const Tensor& box, const Tensor& boundary, const Tensor& edges, const Tensor& lengths,
                      std::string distance, double compactness, int64_t depth, double noise) {
  const Launcher launch(count);
  return merge_tree_checked(count, mean, m2, centroid, box, boundary, edges, lengths, distance, compactness, depth,
                            noise, [&]<typename T>(const MergeTask<T>& task, int64_t batch) {
                              const MergeSizes most{task.leaves, task.num_edges};
                              const int64_t bytes = batch * int64_t(MergeBytes<T>(launch, most).global);
                              const Tensor workspace = empty({bytes}, ScalarType::Byte, count);
                              merge_batch(launch, task, RegionLeaves<T>{task}, most, batch,
                                          mutable_data<unsigned char>(workspace));
                            });
}

// Scratch of an image: 28 bytes and 2 C totals per inner node.
template <typename T>
struct BackwardMemory {
  int32_t* children;    // [I] their number
  uint32_t* child_sum;  // [I] so that the sum less v is the sibling of v
  TreeLevels levels;
  TreeLevels::Scratch scratch;
  T *total_mean, *total_m2;  // [I,C]

  DHVT_HD BackwardMemory(Arena& arena, int64_t inner, int64_t channels)
      : children(arena.take<int32_t>(inner)),
        child_sum(arena.take<uint32_t>(inner)),
        levels(arena, inner),
        scratch(arena, inner),
        total_mean(arena.take<T>(inner * channels)),
        total_m2(arena.take<T>(inner * channels)) {}
};

// One block per image, one level of the tree after the other from the roots down: a thread per node and channel adds to
// its gradients what the parent passes on; a node that has not exactly two children passes nothing on. Reads the means
// twice, everything else about once: 56 C + 16 bytes per leaf in float32.
template <typename T>
__global__ void __launch_bounds__(kMostTreeThreads, 1)
    merge_tree_backward_kernel(MergeBackwardTask<T> first, int64_t batch, size_t shared_bytes, unsigned char* workspace,
                               size_t bytes_per_image) {
  const int64_t leaves = first.leaves, channels = first.channels, inner = first.nodes - leaves;
  for (int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    const MergeBackwardTask<T> task = first.of_image(b);
    Arena arena(shared_memory<unsigned char>(), shared_bytes, workspace + b * bytes_per_image);
    const BackwardMemory<T> memory(arena, inner, channels);
    each(inner, [&](int64_t i) { memory.children[i] = 0, memory.child_sum[i] = 0; });
    __syncthreads();
    each(task.nodes, [&](int64_t v) {
      const int64_t p = task.valid_parent(v);
      if (p < 0) return;
      atomicAdd(&memory.children[p - leaves], 1);
      atomicAdd(&memory.child_sum[p - leaves], uint32_t(v));
    });
    __syncthreads();
    const auto giver = [&](int64_t v) {  // the inner node that passes gradients on to v, -1 for none
      const int64_t p = task.valid_parent(v);
      return int32_t(p >= 0 && memory.children[p - leaves] == 2 ? p - leaves : -1);
    };
    memory.levels.build(memory.scratch, inner, [&](int64_t i) { return giver(leaves + i); });
    // The totals of node v in channel c.
    const auto total = [&](int64_t v, int64_t c, T& to_mean, T& to_m2) {
      const int64_t i = v * channels + c;
      T mean = task.grad_mean[i], m2 = task.grad_m2[i];
      if (const int32_t p = giver(v); p >= 0) {
        const int64_t other = uint32_t(memory.child_sum[p] - uint32_t(v));
        const T from_m2 = memory.total_m2[p * channels + c];
        m2 += from_m2;
        mean += merge_gradient(memory.total_mean[p * channels + c], from_m2, T(task.count[v]), task.mean[i],
                               T(task.count[other]), task.mean[other * channels + c]);
      }
      to_mean = mean;
      to_m2 = m2;
    };
    for (int32_t k = memory.levels.levels() - 1; k >= 0; --k) {
      const int32_t begin = memory.levels.begin[k];
      each((memory.levels.begin[k + 1] - begin) * channels, [&](int64_t j) {
        const int64_t i = memory.levels.node[begin + j / channels], c = j % channels;
        total(leaves + i, c, memory.total_mean[i * channels + c], memory.total_m2[i * channels + c]);
      });
      memory.levels.sync(k, k - 1, channels);
    }
    each(leaves * channels, [&](int64_t j) {
      total(j / channels, j % channels, task.leaf_grad_mean[j], task.leaf_grad_m2[j]);
      if (task.count[j / channels] <= 0)  // the moments of an unused leaf are zero, whatever came in
        task.leaf_grad_mean[j] = task.leaf_grad_m2[j] = T(0);
    });
    __syncthreads();
  }
}

std::tuple<Tensor, Tensor> merge_tree_backward(const Tensor& grad_mean, const Tensor& grad_m2, const Tensor& parent,
                                               const Tensor& node_count, const Tensor& node_mean) {
  const Launcher launch(node_mean);
  return merge_tree_backward_checked(
      grad_mean, grad_m2, parent, node_count, node_mean,
      [&]<typename T>(const MergeBackwardTask<T>& task, int64_t batch) {
        const auto bytes = [&](size_t shared) {  // of the workspace
          Arena arena(nullptr, shared, nullptr);
          BackwardMemory<T>(arena, task.nodes - task.leaves, task.channels);
          return arena.global_bytes();
        };
        const size_t shared = std::min(launch.most_shared(), bytes(0));
        const Tensor workspace = empty({batch * int64_t(bytes(shared))}, ScalarType::Byte, node_mean);
        launch(merge_tree_backward_kernel<T>, blocks_for(task.leaves > 0 ? batch : 0), tree_threads(task.leaves),
               shared, task, batch, shared, mutable_data<unsigned char>(workspace), bytes(shared));
      });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) {
  m.impl("merge_tree", TORCH_BOX(&dhvt::merge_tree));
  m.impl("merge_tree_backward", TORCH_BOX(&dhvt::merge_tree_backward));
}
