// Cuts of a scale set.
#include <bit>

#include "cuda/arena.cuh"
#include "cuda/block.cuh"
#include "cuda/launch.cuh"
#include "cuda/scan.cuh"
#include "cuda/tree_levels.cuh"
#include "scale_cut_host.h"

namespace dhvt {
namespace {

// A way up the tree: the node that it has come to, -1 above a root, and the least `lower` on it.
struct BirthWay {
  int32_t up;
  float least;
};

struct ScaleCutMemory {
  int32_t* counts;         // [33]
  int32_t* total;          // [1]
  int32_t* parent;         // [V] -1 for roots, -2 for unused nodes
  float* birth;            // [V] infinite for unused nodes
  int32_t *from, *to;      // [V]
  BirthWay *here, *there;  // [V]

  DHVT_HD ScaleCutMemory(Arena& arena, int64_t nodes)
      : counts(arena.take<int32_t>(33)),
        total(arena.take<int32_t>(1)),
        parent(arena.take<int32_t>(nodes)),
        birth(arena.take<float>(nodes)),
        from(arena.take<int32_t>(nodes)),
        to(arena.take<int32_t>(nodes)),
        here(arena.take<BirthWay>(nodes)),
        there(arena.take<BirthWay>(nodes)) {}
};

// One cut of one image, by the whole block.
struct BlockCut {
  const ScaleCutTask& task;
  int64_t n, b;
  ScaleCutMemory memory;

  // Inner nodes without a used child are unused; from the last to the first, as long as there are any.
  __device__ void build() const {
    const int64_t leaves = task.leaves, nodes = task.nodes;
    const int32_t *given = task.parent + b * nodes, *round = task.round + b * nodes;
    const auto [counts, total, parent, birth, from, to, here, there] = memory;
    each(nodes, [&](int64_t v) {
      parent[v] = round[v] < 0 ? -2 : int32_t(valid_parent(given, round, leaves, nodes, v));
      from[v] = 0;
    });
    __syncthreads();
    each(nodes, [&](int64_t v) {
      if (parent[v] >= 0) atomicAdd(&from[parent[v]], 1);
    });
    __syncthreads();
    for (;;) {
      bool any = false;
      each(nodes - leaves, [&](int64_t i) {
        const int64_t v = leaves + i;
        to[v] = parent[v] != -2 && from[v] == 0;
        any |= to[v] != 0;
      });
      if (!__syncthreads_or(any)) break;
      each(nodes - leaves, [&](int64_t i) {
        const int64_t v = leaves + i;
        if (!to[v]) return;
        if (parent[v] >= 0) atomicAdd(&from[parent[v]], -1);
        parent[v] = -2;
      });
      __syncthreads();
    }
    find_births(memory.here, memory.there);
  }

  // Ways double until all have come to the roots.
  __device__ void find_births(BirthWay* here, BirthWay* there) const {
    constexpr float never = std::numeric_limits<float>::infinity();
    const float* lower = task.lower + b * task.nodes;
    each(task.nodes, [&](int64_t v) {
      const float own = v < task.leaves ? 0.0f : lower[v];
      here[v] = {memory.parent[v], own < never ? own : never};
    });
    __syncthreads();
    for (bool more = true; more; more = __syncthreads_or(more)) {
      more = false;
      each(task.nodes, [&](int64_t v) {
        BirthWay way = here[v];
        if (way.up >= 0) {
          const BirthWay above = here[way.up];
          way = {above.up, above.least < way.least ? above.least : way.least};
        }
        there[v] = way;
        more |= way.up >= 0;
      });
      BirthWay* const swap = here;
      here = there;
      there = swap;
    }
    each(task.nodes, [&](int64_t v) {
      memory.birth[v] = memory.parent[v] == -2 ? never : v < task.leaves ? 0.0f : here[v].least;
    });
    __syncthreads();
  }

  // Whether a used node is a segment of the cut at a strength; at infinity, of the roots.
  __device__ bool chosen(int64_t v, float strength) const {
    const int32_t p = memory.parent[v];
    if (p == -2) return false;
    if (strength > kLargestStrength) return p < 0;
    return memory.birth[v] <= strength && !(p >= 0 && memory.birth[p] <= strength);
  }

  __device__ int32_t count(float strength) const {
    if (threadIdx.x == 0) *memory.total = 0;
    __syncthreads();
    int32_t mine = 0;
    each(task.nodes, [&](int64_t v) { mine += chosen(v, strength); });
    mine = warp_sum(mine);
    if (lane() == 0 && mine > 0) atomicAdd(memory.total, mine);
    __syncthreads();
    const int32_t all = *memory.total;
    __syncthreads();
    return all;
  }

  // The least strength whose cut holds the budget, infinity for none: non-negative floats are ordered as their bits
  // are.
  __device__ float find_strength() const {
    const float least = valid_strength(task.least[n]);
    const int32_t budget = task.max_tokens[n];
    if (budget <= 0 || count(least) <= budget) return least;
    if (count(kLargestStrength) > budget) return std::numeric_limits<float>::infinity();
    uint32_t low = std::bit_cast<uint32_t>(least), high = std::bit_cast<uint32_t>(kLargestStrength);
    while (high - low > 1) {
      const uint32_t middle = low + (high - low) / 2;
      (count(std::bit_cast<float>(middle)) <= budget ? high : low) = middle;
    }
    return std::bit_cast<float>(high);
  }

  // Every leaf goes up to its segment, by ways that double, and segments get the numbers of their lowest leaves' order.
  __device__ void write(float strength) const {
    const int64_t leaves = task.leaves, nodes = task.nodes, at = n * task.batch + b;
    auto [counts, total, parent, birth, from, to, here, there] = memory;
    int32_t* const lowest = reinterpret_cast<int32_t*>(here);
    each(nodes, [&](int64_t v) {
      from[v] = chosen(v, strength) || parent[v] < 0 ? int32_t(v) : parent[v];
      lowest[v] = int32_t(leaves);
    });
    __syncthreads();
    for (bool more = true; more; more = __syncthreads_or(more)) {
      more = false;
      each(nodes, [&](int64_t v) {
        to[v] = from[from[v]];
        more |= to[v] != from[v];
      });
      int32_t* const swap = from;
      from = to;
      to = swap;
    }
    each(leaves, [&](int64_t i) {
      if (parent[i] != -2) atomicMin(&lowest[from[i]], int32_t(i));
    });
    __syncthreads();
    int32_t segments = 0;
    for (int64_t begin = 0; begin < leaves; begin += blockDim.x) {
      const int64_t i = begin + threadIdx.x;
      const bool leads = i < leaves && parent[i] != -2 && lowest[from[i]] == i;
      int32_t more;
      const int32_t id = segments + block_prefix(leads, counts, more);
      segments += more;
      if (!leads) continue;
      to[from[i]] = id;
      if (id < task.capacity) task.node[at * task.capacity + id] = from[i];
    }
    __syncthreads();
    each(leaves, [&](int64_t i) { task.segment[at * leaves + i] = parent[i] == -2 ? -1 : to[from[i]]; });
    each(task.capacity, [&](int64_t k) {
      if (k >= segments) task.node[at * task.capacity + k] = -1;
    });
    if (threadIdx.x != 0) return;
    task.count[at] = segments;
    task.strength[at] = strength < kLargestStrength ? strength : kLargestStrength;
  }
};

// One block per cut of an image, as many as run side by side, each with its share of the workspace. A budget halves the
// float32 numbers, 31 counts of the nodes. Nodes find the least `lower` above them, and leaves their segment, by ways
// that double: a barrier per bit of the tree's depth. 16 bytes per leaf in, 4 out and 4 per segment.
__global__ void __launch_bounds__(kMostTreeThreads, 1)
    scale_cut_kernel(ScaleCutTask task, size_t shared_bytes, unsigned char* workspace, size_t bytes_per_block) {
  for (int64_t i = blockIdx.x; i < task.cuts * task.batch; i += gridDim.x) {
    Arena arena(shared_memory<unsigned char>(), shared_bytes, workspace + blockIdx.x * bytes_per_block);
    const BlockCut cut{task, i / task.batch, i % task.batch, ScaleCutMemory(arena, task.nodes)};
    cut.build();
    const float strength = cut.find_strength();
    cut.write(strength);
    __syncthreads();
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> scale_cut(const Tensor& lower, const Tensor& parent, const Tensor& round,
                                                     const Tensor& strength, const Tensor& max_tokens,
                                                     int64_t num_segments) {
  const Launcher launch(lower);
  return scale_cut_checked(lower, parent, round, strength, max_tokens, num_segments, [&](const ScaleCutTask& task) {
    const auto bytes = [&](size_t shared) {
      Arena arena(nullptr, shared, nullptr);
      ScaleCutMemory(arena, task.nodes);
      return arena.global_bytes();
    };
    const size_t shared = std::min(launch.most_shared(), bytes(0));
    const dim3 threads = tree_threads(task.leaves);
    const int64_t tasks = task.cuts * task.batch;
    const int64_t blocks = std::min(tasks, launch.resident(scale_cut_kernel, int(threads.x), shared));
    const Tensor workspace = empty({blocks * int64_t(bytes(shared))}, ScalarType::Byte, lower);
    launch(scale_cut_kernel, blocks_for(blocks), threads, shared, task, shared, mutable_data<unsigned char>(workspace),
           bytes(shared));
  });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) { m.impl("scale_cut", TORCH_BOX(&dhvt::scale_cut)); }
