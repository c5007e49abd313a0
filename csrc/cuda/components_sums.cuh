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

// A warp adds the sums of a strip's part, run by run in raster order, to that of its first run, which begins at its
// root. Looks at the starts of runs between the part's columns, row by row, until one has none of its own.
// list [32] in shared memory.
__device__ __forceinline__ void sum_part(const ComponentImages& image, int32_t root, int32_t bottom, int32_t* list) {
  const int32_t low = image.low[root], high = image.high[root];
  const int32_t first = low / 32, words = high / 32 - first + 1;
  const int32_t rows = words <= 32 ? 32 / words : 1;  // at a time
  double* sums = image.sums + int64_t(root) * image.channels;
  bool goes_on = true;
  for (int32_t y0 = root / image.width; y0 < bottom && goes_on; y0 += rows) {
    goes_on = false;
    for (int32_t j0 = 0; j0 < words; j0 += 32) {
      const int32_t y = words <= 32 ? y0 + lane() / words : y0, j = words <= 32 ? lane() % words : j0 + lane();
      uint32_t own = 0;  // starts of the part's runs in this lane's word
      if (y < bottom && y < y0 + rows && j < words) {
        const int32_t x0 = (first + j) * 32, row = y * image.width;
        for (uint32_t set = image.starts[int64_t(y) * image.words + first + j]; set; set &= set - 1) {
          const int32_t x = x0 + __ffs(int(set)) - 1;
          if (x < low || x > high) continue;
          const int32_t part = image.tile_root[row + x];
          if (part >= 0 && image.strip_of(part) == root) own |= set & (0u - set);
        }
      }
      goes_on |= __any_sync(kAllLanes, own != 0) != 0;
      if (y * image.width <= root && root < (y + 1) * image.width && root % image.width / 32 == first + j)
        own &= ~(1u << root % image.width % 32);
      const int32_t size = __popc(own);
      int32_t upto = size;
      for (int delta = 1; delta < 32; delta *= 2) {
        const int32_t before = __shfl_up_sync(kAllLanes, upto, delta);
        if (lane() >= delta) upto += before;
      }
      const int32_t total = __shfl_sync(kAllLanes, upto, 31);
      int32_t rank = upto - size;
      for (int32_t done = 0; done < total; done += 32) {
        for (; own && rank < done + 32; own &= own - 1, ++rank)
          list[rank - done] = y * image.width + (first + j) * 32 + __ffs(int(own)) - 1;
        __syncwarp();
        const int32_t count = min(32, total - done);
        for (int32_t c = lane(); c < image.channels; c += 32) {
          double sum = sums[c];
#pragma unroll 4
          for (int32_t i = 0; i < count; ++i) sum += image.sums[int64_t(list[i]) * image.channels + c];
          sums[c] = sum;
        }
        __syncwarp();
      }
    }
  }
}

// One block per strip. First a lane per pixel: those where a needed run begins sum it. Then a warp per part of the
// strip puts its runs together. Parts that are not the first of their component are listed. Reads b C bytes per pixel
// of what is needed, and 8 C bytes per run go through the caches.
template <typename scalar_t>
__global__ void __launch_bounds__(kSumThreads)
    sum_strips_kernel(ComponentImages images, ImageView<const scalar_t> features) {
  int32_t* list = shared_memory<int32_t>() + threadIdx.x / 32 * 32;
  const int64_t strips = (images.height + kStripRows - 1) / kStripRows;
  for (int64_t task = blockIdx.x; task < features.batch * strips; task += gridDim.x) {
    const int64_t b = task / strips;
    const ComponentImages image = images.of(b);
    if (image.counters[kFragments] == 0) continue;
    const auto top = int32_t(task % strips * kStripRows);
    const int32_t bottom = min(image.height, top + int32_t(kStripRows));
    const int64_t begin = int64_t(top) * image.words, end = int64_t(bottom) * image.words;
    for (int64_t i = begin + threadIdx.x / 32; i < end; i += kSumWarps) {
      if (!(image.starts[i] >> lane() & 1)) continue;
      const auto y = int32_t(i / image.words), x = int32_t(i % image.words * 32) + lane();
      const int32_t root = image.tile_root[y * image.width + x];
      if (root < 0 || image.head[image.component[root]] == kNotNeeded) continue;
      const int32_t strip_root = image.strip_of(root);
      atomicMin(&image.low[strip_root], x);
      atomicMax(&image.high[strip_root], x);
      sum_run(image, features, b, y, x, run_end(image, i, x));
    }
    __syncthreads();
    for (int64_t i = begin + threadIdx.x / 32; i < end; i += kSumWarps) {
      image.for_bits(image.tile_bits, int32_t(i), [&](int32_t root) {
        const int32_t component = image.component[root];
        if (image.strip_of(root) != root || image.head[component] == kNotNeeded) return;
        sum_part(image, root, bottom, list);
        if (component != root && lane() == 0)
          image.crossing[atomicAdd(&image.counters[kCrossing], 1)] = uint64_t(component) << 32 | uint32_t(root);
      });
    }
    __syncthreads();
  }
}

}  // namespace dhvt
