// Merging of a batch: the launch, for leaves of any kind.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/merge_round.cuh"
#include "cuda/tree_levels.cuh"

namespace dhvt {

// What an image may have when its block begins.
struct MergeSizes {
  int64_t vertices, edges;
};

// One block per image. Barriers separate the steps of a round, which are parallel over edges, vertices, or chains of
// merges; each round halves the graph at least. A round's edges are read three times, from the L2 cache, and what is
// read at random is in shared memory as far as there is room.
template <typename T, typename Leaves>
__global__ void __launch_bounds__(kMostTreeThreads, 1)
    merge_kernel(MergeTask<T> first, Leaves leaves, MergeSizes most, int64_t batch, size_t shared_bytes,
                 unsigned char* workspace, size_t bytes_per_image) {
  for (int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    Arena arena(shared_memory<unsigned char>(), shared_bytes, workspace + b * bytes_per_image);
    const MergeMemory<T> memory(arena, most.edges);
    MergeRounds<T, Leaves>(first.of_image(b), leaves.of_image(b), memory, arena).run();
    __syncthreads();
  }
}

// Bytes of a block's shared memory, and of an image's workspace.
template <typename T>
struct MergeBytes {
  size_t shared, global;

  MergeBytes(const Launcher& launch, const MergeSizes& most) {
    Arena arena(nullptr, sizeof(MergeCounters), nullptr);
    const MergeMemory<T> memory(arena, most.edges);
    const size_t tables = MergeTables<T>(Arena(nullptr, 0, nullptr), most.vertices, most.edges).global_bytes;
    shared = std::min(launch.most_shared(), sizeof(MergeCounters) + tables);
    global = arena.global_bytes() + (shared < sizeof(MergeCounters) + tables ? tables : 0);
  }
};

// task and leaves: of the first image.
template <typename T, typename Leaves>
void merge_batch(const Launcher& launch, const MergeTask<T>& task, const Leaves& leaves, const MergeSizes& most,
                 int64_t batch, unsigned char* workspace) {
  const MergeBytes<T> bytes(launch, most);
  launch(merge_kernel<T, Leaves>, blocks_for(most.vertices > 0 ? batch : 0), tree_threads(most.vertices), bytes.shared,
         task, leaves, most, batch, bytes.shared, workspace, bytes.global);
}

}  // namespace dhvt
