// Merging of a batch: the launch, for leaves of any kind.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/merge_round.cuh"
#include "cuda/tree_levels.cuh"

namespace dhvt {

// One block per image. Barriers separate the steps of a round, which are parallel over edges, vertices, or chains of
// merges; there are 5 to 8 rounds, and each halves the graph at least. Leaves and nodes are read and written about
// once, 40 C + 180 bytes per leaf in float32; a round's edges are read three times, from the L2 cache, and what is
// read at random is in shared memory as far as there is room.
template <typename T, typename Leaves>
__global__ void __launch_bounds__(kMostTreeThreads, 1)
    merge_kernel(MergeTask<T> first, Leaves leaves, int64_t batch, size_t shared_bytes, unsigned char* workspace,
                 size_t bytes_per_image) {
  for (int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    Arena arena(shared_memory<unsigned char>(), shared_bytes, workspace + b * bytes_per_image);
    const MergeMemory<T> memory(arena, first.num_edges);
    MergeRounds<T, Leaves>(first.of_image(b), leaves.of_image(b), memory, arena).run();
    __syncthreads();
  }
}

// task and leaves: of the first image.
template <typename T, typename Leaves>
void merge_batch(const Launcher& launch, const MergeTask<T>& task, const Leaves& leaves, int64_t batch,
                 const Tensor& like) {
  Arena arena(nullptr, sizeof(MergeCounters), nullptr);
  const MergeMemory<T> memory(arena, task.num_edges);
  const size_t tables = MergeTables<T>(Arena(nullptr, 0, nullptr), task.leaves, task.num_edges).global_bytes;
  const size_t shared = std::min(launch.most_shared(), sizeof(MergeCounters) + tables);
  const size_t bytes = arena.global_bytes() + (shared < sizeof(MergeCounters) + tables ? tables : 0);
  const Tensor workspace = empty({batch * int64_t(bytes)}, ScalarType::Byte, like);
  launch(merge_kernel<T, Leaves>, blocks_for(task.leaves > 0 ? batch : 0), tree_threads(task.leaves), shared, task,
         leaves, batch, shared, mutable_data<unsigned char>(workspace), bytes);
}

}  // namespace dhvt
