// Connected components: from tiles to the image, in steps of independent items.
#pragma once

#include "cuda/components_image.cuh"
#include "cuda/scan.cuh"

namespace dhvt {

// Item: a row at a border between two tiles of a strip, whose parts become those of the strip.
struct JoinColumns {
  static __host__ __device__ int64_t items(const ComponentImages& image) {
    return int64_t((image.width - 1) / kTileColumns) * image.height;
  }
  static __device__ __forceinline__ void run(const ComponentImages& image, int64_t i) {
    const int32_t y = int32_t(i % image.height), x = int32_t(i / image.height + 1) * kTileColumns;
    const int32_t p = y * image.width + x, label = image.labels[p];
    if (label < 0 || image.labels[p - 1] != label) return;
    const int32_t above = p - image.width;
    if (y % kTileRows > 0 && image.labels[above] == label && image.labels[above - 1] == label) return;  // joins them
    join_sets(image.strip_root, image.tile_root[p - 1], image.tile_root[p]);
  }
};

// Item: a column at a border between two strips.
struct JoinRows {
  static __host__ __device__ int64_t items(const ComponentImages& image) {
    return int64_t((image.height - 1) / kTileRows) * image.width;
  }
  static __device__ __forceinline__ void run(const ComponentImages& image, int64_t i) {
    const int32_t x = int32_t(i % image.width), y = int32_t(i / image.width + 1) * kTileRows;
    const int32_t p = y * image.width + x, above = p - image.width, label = image.labels[p];
    if (label < 0 || image.labels[above] != label) return;
    if (x > 0 && image.labels[p - 1] == label && image.labels[above - 1] == label) return;  // the left pair joins them
    const auto root = [&](int32_t of) {
      return image.strip_root ? root_of(image.strip_root, image.tile_root[of]) : image.tile_root[of];
    };
    join_sets(image.component, root(above), root(p));
  }
};

// Item: a word of roots of tiles' parts, which learn their strip's part and their component, and give it their size.
struct Flatten {
  static __host__ __device__ int64_t items(const ComponentImages& image) { return int64_t(image.height) * image.words; }
  static __device__ __forceinline__ void run(const ComponentImages& image, int64_t i) {
    uint32_t roots = 0;
    const int32_t first = int32_t(i / image.words * image.width + i % image.words * 32);
    image.for_bits(image.tile_bits, int32_t(i), [&](int32_t part) {
      const int32_t strip = image.strip_root ? final_root_of(image.strip_root, part) : part;
      const int32_t component = final_root_of(image.component, strip);
      if (image.strip_root) image.strip_root[part] = strip;
      image.component[part] = component;
      if (component == part) roots |= 1u << (part - first);
      if (image.size && component != part) atomicAdd(&image.size[component], image.size[part]);
      if (image.channels > 0 && strip == part) {
        image.low[part] = image.width;
        image.high[part] = -1;
      }
    });
    image.bits[i] = roots;
  }
};

// Places of a label in the table: steps are odd, so that each place is visited.
struct Probe {
  uint32_t place, step, mask;

  __device__ __forceinline__ Probe(const ComponentImages& image, int32_t label) : mask(image.table_size - 1) {
    const uint32_t hash = uint32_t(label) * 2654435769u;
    place = (uint32_t(label) <= mask ? uint32_t(label) : hash ^ hash >> 15) & mask;
    step = (uint32_t(label) * 2246822519u >> 7) | 1;
  }
  __device__ __forceinline__ void next() { place = (place + step) & mask; }
};

// Whether component a goes before b: the larger, then the first.
__device__ __forceinline__ bool is_larger(const ComponentImages& image, int32_t a, int32_t b) {
  return image.size[a] != image.size[b] ? image.size[a] > image.size[b] : a < b;
}

// Puts a component in a place (-1 = empty) unless a larger one is there.
__device__ __forceinline__ void keep_largest(const ComponentImages& image, int32_t* place, int32_t component) {
  int32_t there = *static_cast<volatile int32_t*>(place);
  while (there < 0 || is_larger(image, component, there)) {
    const int32_t before = atomicCAS(place, there, component);
    if (before == there) return;
    there = before;
  }
}

// Item: a word of components, which look for the largest of their label. A place never changes its label, and there are
// as many places as pixels, so that each label finds one.
struct FindMain {
  static __host__ __device__ int64_t items(const ComponentImages& image) { return Flatten::items(image); }
  static __device__ __forceinline__ void run(const ComponentImages& image, int64_t i) {
    image.for_bits(image.bits, int32_t(i), [&](int32_t component) {
      const int32_t label = image.labels[component];
      for (Probe probe(image, label);; probe.next()) {
        int32_t there = static_cast<volatile int32_t*>(image.table)[probe.place];
        if (there < 0) there = atomicCAS(&image.table[probe.place], -1, component);
        if (there < 0) return;
        if (image.labels[there] != label) continue;
        keep_largest(image, &image.table[probe.place], component);
        return;
      }
    });
  }
};

// The largest component of the label of one.
__device__ __forceinline__ int32_t main_of(const ComponentImages& image, int32_t component) {
  if (!image.largest_only) return component;
  const int32_t label = image.labels[component];
  Probe probe(image, label);
  while (image.labels[image.table[probe.place]] != label) probe.next();
  return image.table[probe.place];
}

// Item: a word of components: which are kept, and which are fragments.
struct FindFragments {
  static __host__ __device__ int64_t items(const ComponentImages& image) { return Flatten::items(image); }
  static __device__ __forceinline__ void run(const ComponentImages& image, int64_t i) {
    uint32_t kept = 0;
    const int32_t first = int32_t(i / image.words * image.width + i % image.words * 32);
    image.for_bits(image.bits, int32_t(i), [&](int32_t component) {
      const bool stays = image.size[component] >= image.min_size && main_of(image, component) == component;
      image.leaf[component] = stays ? component : -1;
      image.head[component] = kNotNeeded;
      if (stays) kept |= 1u << (component - first);
    });
    image.kept[i] = kept;
    const int fragments = __popc(image.bits[i]) - __popc(kept);
    if (fragments > 0) atomicAdd(&image.counters[kFragments], fragments);
  }
};

constexpr int kJoinThreads = 1024;

// Numbers the components of a map of bits in raster order. All threads of the block; scratch [33].
__device__ __forceinline__ void number_components(const ComponentImages& image, const uint32_t* map, int32_t* scratch) {
  constexpr int kWords = 16;
  const int64_t words = int64_t(image.height) * image.words;
  int32_t done = 0;
  for (int64_t first = 0; first < words; first += int64_t(blockDim.x) * kWords) {
    const int64_t begin = first + int64_t(threadIdx.x) * kWords, end = min(begin + kWords, words);
    int32_t here = 0, total;
    for (int64_t i = begin; i < end; ++i) here += __popc(map[i]);
    int32_t next = done + block_prefix(here, scratch, total);
    for (int64_t i = begin; i < end; ++i)
      image.for_bits(map, int32_t(i), [&](int32_t component) { image.number[component] = next++; });
    done += total;
  }
  if (threadIdx.x == 0) *image.counts = done;
}

template <typename Step>
__device__ __forceinline__ void run_step(const ComponentImages& image) {
  const int64_t items = Step::items(image);
  for (int64_t i = threadIdx.x; i < items; i += kJoinThreads) Step::run(image, i);
  __syncthreads();
}

// All steps of an image in one block: for images so small that launches cost more. Reads the borders of the tiles and
// the bits of their roots.
__global__ void __launch_bounds__(kJoinThreads) join_image_kernel(ComponentImages images, int64_t batch) {
  for (int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    const ComponentImages image = images.of(b);
    run_step<JoinColumns>(image);
    run_step<JoinRows>(image);
    run_step<Flatten>(image);
    if (images.size) {
      if (image.largest_only) run_step<FindMain>(image);
      run_step<FindFragments>(image);
    } else {
      number_components(image, image.bits, shared_memory<int32_t>());
    }
  }
}

// One step of all images, a thread per item.
template <typename Step>
struct StepOfBatch {
  ComponentImages images;
  int64_t items;

  __device__ void operator()(int64_t i) const { Step::run(images.of(i / items), i % items); }
};

// The last step of larger images where nothing is a fragment: one block per image, 1 bit per pixel.
__global__ void __launch_bounds__(kJoinThreads) number_kernel(ComponentImages images, int64_t batch) {
  for (int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    const ComponentImages image = images.of(b);
    number_components(image, image.bits, shared_memory<int32_t>());
  }
}

}  // namespace dhvt
