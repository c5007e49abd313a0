// Connected components: which means are needed, and feature sums in the order that is part of the result.
#pragma once

#include "cuda/components_image.cuh"

namespace dhvt {

// One thread per pixel: those of fragments that touch another component are listed, and the means of both are needed.
// Where there are fragments, reads 4 bytes per pixel and what belongs to roots.
struct ListBoundary {
  ComponentImages images;

  __device__ void operator()(int64_t b, int64_t, int64_t p) const {
    const ComponentImages image = images.of(b);
    if (image.counters[kFragments] == 0) return;
    const auto pixel = int32_t(p);
    const int32_t own = image.component_of(pixel);
    if (own < 0 || image.leaf[own] >= 0) return;
    bool touches = false;
    image.for_neighbors(pixel, [&](int32_t other) {
      if (other == own) return;
      touches = true;
      image.head[other] = kEmptyList;
    });
    if (!touches) return;
    image.head[own] = kEmptyList;
    image.boundary[atomicAdd(&image.counters[kBoundary], 1)] = pixel;
  }
};

constexpr int kSumThreads = 512, kSumWarps = kSumThreads / 32;
constexpr int kSumWords = 4;                               // per warp and turn
constexpr int kSumRuns = kSumThreads * kSumWords;          // at most, per turn of the block
constexpr int kGroup = 8, kGroups = kSumThreads / kGroup;  // lanes that work on a part of a strip

// Shared memory of a block that sums.
struct SumScratch {
  int32_t runs[kSumRuns];         // where needed runs begin
  int32_t list[kGroups][kGroup];  // likewise, of a part
  int32_t num_runs, num_parts;
};

// The sum of a run, from zero, left to right, for channels in blocks of four.
template <typename scalar_t>
__device__ __forceinline__ void sum_run(const ComponentImages& image, const ImageView<const scalar_t>& features,
                                        int64_t b, int32_t y, int32_t begin, int32_t end) {
  const scalar_t* row = features.pixel(b, y, 0);
  double* out = image.sums + (int64_t(y) * image.width + begin) * image.channels;
  for (int32_t c0 = 0; c0 < image.channels; c0 += 4) {
    const scalar_t* plane[4];
    double sum[4] = {};
#pragma unroll
    for (int c = 0; c < 4; ++c) plane[c] = row + min(c0 + c, image.channels - 1) * features.channel_stride;
#pragma unroll 2
    for (int64_t x = begin; x < end; ++x)
#pragma unroll
      for (int c = 0; c < 4; ++c) sum[c] += acc_t<scalar_t>(plane[c][x * features.column_stride]);
    for (int c = 0; c < 4 && c0 + c < image.channels; ++c) out[c0 + c] = sum[c];
  }
}

// The column at which a run ends that begins at a bit of word i, in column x.
__device__ __forceinline__ int32_t run_end(const ComponentImages& image, int64_t i, int32_t x) {
  const int64_t row_end = (i / image.words + 1) * image.words;
  uint32_t later = image.starts[i] & ~((2u << x % 32) - 1);
  for (x -= x % 32; later == 0; later = image.starts[i]) {
    x += 32;
    if (++i == row_end) return image.width;
  }
  return x + __ffs(int(later)) - 1;
}

// A group of lanes adds the sums of a strip's part, run by run in raster order, to that of its first run, which begins
// at its root. Looks at the starts of runs between the part's columns, row by row, until one has none of its own.
__device__ __forceinline__ void sum_part(const ComponentImages& image, int32_t root, int32_t bottom,
                                         int32_t* list /* [kGroup] */) {
  const unsigned group = ((1u << kGroup) - 1) << lane() / kGroup * kGroup;
  const int own_lane = lane() % kGroup;
  const int32_t low = image.low[root], high = image.high[root];
  const int32_t first = low / 32, words = high / 32 - first + 1;
  const int32_t rows = words <= kGroup ? kGroup / words : 1;  // at a time
  double* sums = image.sums + int64_t(root) * image.channels;
  bool goes_on = true;
  for (int32_t y0 = root / image.width; y0 < bottom && goes_on; y0 += rows) {
    goes_on = false;
    for (int32_t j0 = 0; j0 < words; j0 += kGroup) {
      const int32_t y = words <= kGroup ? y0 + own_lane / words : y0;
      const int32_t j = words <= kGroup ? own_lane % words : j0 + own_lane;
      const int32_t word_begin = y * image.width + (first + j) * 32;
      uint32_t own = 0;  // starts of the part's runs in this lane's word
      if (y < bottom && y < y0 + rows && j < words) {
        for (uint32_t set = image.starts[int64_t(y) * image.words + first + j]; set; set &= set - 1) {
          const int32_t bit = __ffs(int(set)) - 1, x = (first + j) * 32 + bit;
          if (x < low || x > high) continue;
          const int32_t part = image.tile_root[word_begin + bit];
          if (part >= 0 && image.strip_of(part) == root) own |= 1u << bit;
        }
      }
      goes_on |= __any_sync(group, own != 0) != 0;
      if (own && word_begin <= root && root - word_begin < 32) own &= ~(1u << (root - word_begin));
      const int32_t size = __popc(own);
      int32_t upto = size;
      for (int delta = 1; delta < kGroup; delta *= 2) {
        const int32_t before = __shfl_up_sync(group, upto, delta, kGroup);
        if (own_lane >= delta) upto += before;
      }
      const int32_t total = __shfl_sync(group, upto, kGroup - 1, kGroup);
      int32_t rank = upto - size;
      for (int32_t done = 0; done < total; done += kGroup) {
        for (; own && rank < done + kGroup; own &= own - 1, ++rank)
          list[rank - done] = word_begin + __ffs(int(own)) - 1;
        __syncwarp(group);
        const int32_t count = min(kGroup, total - done);
        for (int32_t c = own_lane; c < image.channels; c += kGroup) {
          double sum = sums[c];
#pragma unroll 4
          for (int32_t i = 0; i < count; ++i) sum += image.sums[int64_t(list[i]) * image.channels + c];
          sums[c] = sum;
        }
        __syncwarp(group);
      }
    }
  }
}

// One block per strip. In turns, a lane per pixel lists where needed runs begin, and a thread per run sums it; then a
// group of lanes per part of the strip puts its runs together. Parts that are not the first of their component are
// listed. Several words per warp and all lanes on runs, because each look-up waits for the one before. Reads b C bytes
// per pixel of what is needed, and 8 C bytes per run go through the caches.
template <typename scalar_t>
__global__ void __launch_bounds__(kSumThreads)
    sum_strips_kernel(ComponentImages images, ImageView<const scalar_t> features) {
  SumScratch& scratch = *shared_memory<SumScratch>();
  const int64_t strips = (images.height + kStripRows - 1) / kStripRows;
  for (int64_t task = blockIdx.x; task < features.batch * strips; task += gridDim.x) {
    const int64_t b = task / strips;
    const ComponentImages image = images.of(b);
    if (image.counters[kFragments] == 0) continue;
    const auto top = int32_t(task % strips * kStripRows);
    const int32_t bottom = min(image.height, top + int32_t(kStripRows));
    const int64_t end = int64_t(bottom) * image.words;
    int32_t* parts = image.queue + top * image.width;  // of the strip: nothing is queued yet
    if (threadIdx.x == 0) scratch.num_parts = 0;
    for (int64_t first = int64_t(top) * image.words; first < end; first += kSumWarps * kSumWords) {
      if (threadIdx.x == 0) scratch.num_runs = 0;
      __syncthreads();
      int32_t pixel[kSumWords], root[kSumWords], component[kSumWords];
#pragma unroll
      for (int k = 0; k < kSumWords; ++k) {
        const int64_t i = first + k * kSumWarps + threadIdx.x / 32;
        pixel[k] = int32_t(i / image.words * image.width + i % image.words * 32) + lane();
        root[k] = i < end && image.starts[i] >> lane() & 1 ? 0 : -1;
      }
#pragma unroll
      for (int k = 0; k < kSumWords; ++k)
        if (root[k] == 0) root[k] = image.tile_root[pixel[k]];
#pragma unroll
      for (int k = 0; k < kSumWords; ++k) component[k] = root[k] < 0 ? -1 : image.component[root[k]];
#pragma unroll
      for (int k = 0; k < kSumWords; ++k)
        if (component[k] >= 0 && image.head[component[k]] == kNotNeeded) component[k] = -1;
#pragma unroll
      for (int k = 0; k < kSumWords; ++k) {
        if (component[k] < 0) continue;
        const int32_t part = image.strip_of(root[k]), x = pixel[k] % image.width;
        atomicMin(&image.low[part], x);
        atomicMax(&image.high[part], x);
        scratch.runs[atomicAdd(&scratch.num_runs, 1)] = pixel[k];
        if (part == pixel[k]) parts[atomicAdd(&scratch.num_parts, 1)] = part;
      }
      __syncthreads();
      for (int32_t i = int32_t(threadIdx.x); i < scratch.num_runs; i += kSumThreads) {
        const int32_t y = scratch.runs[i] / image.width, x = scratch.runs[i] % image.width;
        sum_run(image, features, b, y, x, run_end(image, int64_t(y) * image.words + x / 32, x));
      }
      __syncthreads();
    }
    for (int32_t i = int32_t(threadIdx.x) / kGroup; i < scratch.num_parts; i += kGroups) {
      const int32_t part = parts[i], component = image.component[part];
      sum_part(image, part, bottom, scratch.list[threadIdx.x / kGroup]);
      if (component != part && threadIdx.x % kGroup == 0)
        image.crossing[atomicAdd(&image.counters[kCrossing], 1)] = uint64_t(component) << 32 | uint32_t(part);
    }
    __syncthreads();
  }
}

}  // namespace dhvt
