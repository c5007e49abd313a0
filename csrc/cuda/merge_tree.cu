// Best-neighbour merging of a region graph into a binary tree.
#include "cuda/launch.cuh"
#include "cuda/merge_round.cuh"
#include "merge_tree_host.h"

namespace dhvt {
namespace {

constexpr int kMostThreads = 1024;

// One block per image. Barriers separate the steps of a round, which are parallel over edges, vertices, or chains of
// merges; there are 5 to 8 rounds, and each halves the graph at least. Leaves and nodes are read and written about
// once, 24 (2 C + 9) bytes per leaf in float32; a round's edges are read three times, from the L2 cache, and what is
// read at random is in shared memory as far as there is room.
template <typename T>
__global__ void __launch_bounds__(kMostThreads)
    merge_tree_kernel(MergeTask<T> first, int64_t batch, size_t shared_bytes, unsigned char* workspace,
                      size_t bytes_per_image) {
  for (int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    Arena arena(shared_memory<unsigned char>(), shared_bytes, workspace + b * bytes_per_image);
    const MergeMemory<T> memory(arena, first.num_edges);
    MergeRounds<T>(first.of_image(b), memory, arena).run();
    __syncthreads();
  }
}

MergedTree merge_tree(const Tensor& count, const Tensor& mean, const Tensor& m2, const Tensor& centroid,
                      const Tensor& box, const Tensor& boundary, const Tensor& edges, const Tensor& lengths,
                      std::string distance, double compactness, int64_t depth) {
  const Launcher launch(count);
  return merge_tree_checked(
      count, mean, m2, centroid, box, boundary, edges, lengths, distance, compactness, depth,
      [&]<typename T>(const MergeTask<T>& task, int64_t batch) {
        Arena arena(nullptr, sizeof(MergeCounters), nullptr);
        const MergeMemory<T> memory(arena, task.num_edges);
        const size_t tables = MergeTables<T>(Arena(nullptr, 0, nullptr), task.leaves, task.num_edges).global_bytes;
        const size_t shared = std::min(launch.most_shared(), sizeof(MergeCounters) + tables);
        const size_t bytes = arena.global_bytes() + (shared < sizeof(MergeCounters) + tables ? tables : 0);
        const Tensor workspace = empty({batch * int64_t(bytes)}, ScalarType::Byte, count);
        launch(merge_tree_kernel<T>, blocks_for(task.leaves > 0 ? batch : 0),
               dim3(unsigned(std::clamp<int64_t>(power_of_two(task.leaves), 64, kMostThreads))), shared, task, batch,
               shared, mutable_data<unsigned char>(workspace), bytes);
      });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) { m.impl("merge_tree", TORCH_BOX(&dhvt::merge_tree)); }
