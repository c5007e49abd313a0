// Connected components: what fragments join.
#pragma once

#include "cuda/components_join.cuh"

namespace dhvt {

constexpr int kResolveThreads = 512, kSortedInShared = 1024;

// Sorts keys by a bitonic network: all threads of the block, in global or shared memory.
__device__ __forceinline__ void sort_block(uint64_t* keys, int32_t count) {
  const auto exchange = [&](int32_t i, int64_t j) {
    if (j <= i || j >= count || keys[i] <= keys[j]) return;  // what lies beyond the end counts as infinite
    const uint64_t key = keys[i];
    keys[i] = keys[j];
    keys[j] = key;
  };
  for (int64_t size = 2; size / 2 < count; size *= 2) {
    for (int32_t i = int32_t(threadIdx.x); i < count; i += kResolveThreads) exchange(i, i ^ (size - 1));
    __syncthreads();
    for (int64_t step = size / 4; step > 0; step /= 2) {
      for (int32_t i = int32_t(threadIdx.x); i < count; i += kResolveThreads) exchange(i, i ^ step);
      __syncthreads();
    }
  }
}

struct ComponentMean {
  const double* sum;
  double size;

  __device__ __forceinline__ double operator[](int64_t c) const { return sum[c] / size; }
};

// A block's work on the fragments of an image.
struct Resolver {
  const ComponentImages& image;
  int32_t* tail;  // of the queue, in shared memory

  __device__ __forceinline__ int32_t leaf(int32_t component) const {
    return static_cast<volatile int32_t*>(image.leaf)[component];
  }

  // The sums of a component's parts below the first strip's, top to bottom. A thread per component and channel.
  __device__ __forceinline__ void finish_sums(uint64_t* in_shared) const {
    const int32_t count = image.counters[kCrossing];
    uint64_t* keys = count <= kSortedInShared ? in_shared : image.crossing;
    for (int32_t i = int32_t(threadIdx.x); i < count && keys == in_shared; i += kResolveThreads)
      keys[i] = image.crossing[i];
    __syncthreads();
    sort_block(keys, count);
    const auto component = [&](int64_t i) { return int64_t(keys[i] >> 32); };
    for (int64_t k = threadIdx.x; k < int64_t(count) * image.channels; k += kResolveThreads) {
      const int64_t first = k / image.channels, c = k % image.channels;
      if (first > 0 && component(first - 1) == component(first)) continue;
      double& out = image.sums[component(first) * image.channels + c];
      double sum = out;
      for (int64_t i = first; i < count && component(i) == component(first); ++i)
        sum += image.sums[int64_t(uint32_t(keys[i])) * image.channels + c];
      out = sum;
    }
    __syncthreads();
  }

  __device__ __forceinline__ Candidate candidate(int32_t fragment, int32_t index) const {
    const auto mean = [&](int32_t i) {
      return ComponentMean{image.sums + int64_t(i) * image.channels, double(image.size[i])};
    };
    const double distance = image.channels > 0 ? mean_distance(mean(fragment), mean(index), image.channels) : 0.0;
    return {distance, image.size[index], index};
  }

  // A wave's offer: a fragment keeps the best until the wave ends, as a number below -1, and is queued with the first.
  __device__ __forceinline__ void offer(int32_t fragment, int32_t index) const {
    int32_t there = leaf(fragment);
    if (there == -2 - index) return;
    const Candidate own = candidate(fragment, index);
    while (there == -1 || is_better(own, candidate(fragment, -2 - there))) {
      const int32_t before = atomicCAS(&image.leaf[fragment], there, -2 - index);
      if (before == there) {
        if (there == -1) image.queue[atomicAdd(tail, 1)] = fragment;
        return;
      }
      there = before;
      if (there == -2 - index) return;
    }
  }

  // The first wave: kept components make their offers. Fragments get the lists of their pixels.
  __device__ __forceinline__ void first_wave() const {
    for (int32_t i = int32_t(threadIdx.x); i < image.counters[kBoundary]; i += kResolveThreads) {
      const int32_t pixel = image.boundary[i], own = image.component_of(pixel);
      image.next[pixel] = atomicExch(&image.head[own], pixel);
      image.for_neighbors(pixel, [&](int32_t other) {
        if (other != own && leaf(other) >= 0) offer(own, other);
      });
    }
    __syncthreads();
  }

  // Waves from the fragments of the queue outwards: those of one wave make offers to the next.
  __device__ __forceinline__ void run_waves(int32_t begin) const {
    for (int32_t end = *tail; begin < end;) {
      for (int32_t i = begin + int32_t(threadIdx.x); i < end; i += kResolveThreads) {
        const int32_t fragment = image.queue[i];
        image.leaf[fragment] = -2 - leaf(fragment);
      }
      __syncthreads();
      for (int32_t i = begin + int32_t(threadIdx.x); i < end; i += kResolveThreads) {
        const int32_t own = image.queue[i], index = leaf(own);
        for (int32_t pixel = image.head[own]; pixel >= 0; pixel = image.next[pixel])
          image.for_neighbors(pixel, [&](int32_t other) {
            if (other != own && leaf(other) < 0) offer(other, index);
          });
      }
      __syncthreads();
      begin = end;
      end = *tail;
      __syncthreads();
    }
  }

  // body(component, word) for all components of the image that belong nowhere yet.
  template <typename Body>
  __device__ __forceinline__ void for_unresolved(const Body& body) const {
    const int64_t words = int64_t(image.height) * image.words;
    for (int64_t i = threadIdx.x; i < words; i += kResolveThreads)
      image.for_bits(image.bits, int32_t(i), [&](int32_t component) {
        if (leaf(component) == -1) body(component, i);
      });
    __syncthreads();
  }

  // Where a connected piece has no kept component: its largest main one is kept in spite of its size, and makes the
  // first offer. A piece of secondary components goes where its labels' main ones go.
  __device__ __forceinline__ void resolve_pieces() const {
    int32_t *piece = image.low, *anchor = image.high;
    const int32_t begin = *tail;
    for_unresolved([&](int32_t component, int64_t) {
      piece[component] = component;
      anchor[component] = -1;
    });
    for (int32_t i = int32_t(threadIdx.x); i < image.counters[kBoundary]; i += kResolveThreads) {
      const int32_t pixel = image.boundary[i], own = image.component_of(pixel);
      if (leaf(own) != -1) continue;
      image.for_neighbors(pixel, [&](int32_t other) {
        if (other != own) join_sets(piece, own, other);  // unresolved, too
      });
    }
    __syncthreads();
    for_unresolved([&](int32_t component, int64_t) {
      if (main_of(image, component) == component) keep_largest(image, &anchor[root_of(piece, component)], component);
    });
    for_unresolved([&](int32_t component, int64_t word) {
      if (anchor[root_of(piece, component)] != component) return;
      image.leaf[component] = -2 - component;
      image.queue[atomicAdd(tail, 1)] = component;
      image.kept[word] |= 1u << component % image.width % 32;
    });
    run_waves(begin);
    for_unresolved([&](int32_t component, int64_t) { image.leaf[component] = leaf(main_of(image, component)); });
  }
};

// One block per image: finishes the sums, lets fragments join in waves, each fragment's pixels looked at once, and
// numbers what is kept. Without fragments, only that.
__global__ void __launch_bounds__(kResolveThreads, 1) resolve_kernel(ComponentImages images, int64_t batch) {
  uint64_t* keys = shared_memory<uint64_t>();
  int32_t* scratch = reinterpret_cast<int32_t*>(keys + kSortedInShared);
  for (int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    const ComponentImages image = images.of(b);
    const int32_t fragments = image.counters[kFragments];
    if (fragments > 0) {
      const Resolver resolver{image, scratch + 33};
      if (threadIdx.x == 0) *resolver.tail = 0;
      __syncthreads();
      if (image.channels > 0) resolver.finish_sums(keys);
      resolver.first_wave();
      resolver.run_waves(0);
      if (*resolver.tail < fragments) resolver.resolve_pieces();
    }
    number_components(image, image.kept, scratch);
    __syncthreads();
  }
}

}  // namespace dhvt
