// Connected components of single tiles, in shared memory.
#pragma once

#include "cuda/components_image.cuh"

namespace dhvt {

constexpr int kTileWords = kTileColumns / 32, kTilePixels = kTileRows * kTileColumns;
constexpr int kIndexBits = 13;  // of a pixel of a tile
static_assert(kTilePixels == 1 << kIndexBits && kTileRows * kTileWords == kThreads);

// Bits up to one of them.
__device__ __forceinline__ uint32_t bits_up_to(int bit) { return (2u << bit) - 1; }

// Where in the tile the run of a pixel begins: bit `bit` of word `word`. The first pixel of each row begins one.
__device__ __forceinline__ int32_t run_begin(const uint32_t* starts, int word, int bit) {
  uint32_t set = starts[word] & bits_up_to(bit);
  while (set == 0) set = starts[--word];
  return word * 32 + 31 - __clz(int(set));
}

// The root of a run, where roots have their size above the index.
__device__ __forceinline__ int32_t index_root(int32_t* parents, int32_t i) {
  constexpr int32_t kIndex = kTilePixels - 1;
  volatile int32_t* parent = parents;
  for (int32_t up = parent[i] & kIndex; up != i; up = parent[i] & kIndex) i = up;
  return i;
}

// One block per tile. Runs of a row are found by ballots, a warp per row; then a thread per word of 32 pixels joins
// each run with those of the same label above it, by their first pixels, and counts their pixels; then each pixel gets
// its root. Reads 4 bytes per pixel (8 with those from the cache) and writes 4; what it notes of the roots is little.
__global__ void __launch_bounds__(kThreads) label_tiles_kernel(ComponentImages images, int64_t batch) {
  int32_t* parent = shared_memory<int32_t>();                            // [kTilePixels] of runs; -1 = no segment
  uint32_t* starts = reinterpret_cast<uint32_t*>(parent + kTilePixels);  // [kTileRows,kTileWords] where runs begin
  uint32_t* same = starts + kThreads;                                    // likewise, the label of the pixel above
  const bool sized = images.size != nullptr, summed = images.channels > 0;
  const int64_t width = images.width;
  const int64_t tile_columns = (width + kTileColumns - 1) / kTileColumns;
  const int64_t tiles = (images.height + kTileRows - 1) / kTileRows * tile_columns;
  for (int64_t task = blockIdx.x; task < batch * tiles; task += gridDim.x) {
    const ComponentImages image = images.of(task / tiles);
    const int64_t tile = task % tiles, top = tile / tile_columns * kTileRows, left = tile % tile_columns * kTileColumns;
    const int rows = int(min(int64_t(kTileRows), image.height - top));
    const int columns = int(min(int64_t(kTileColumns), width - left));
    const auto pixel = [&](int y, int x) { return (top + y) * width + left + x; };
    const auto word_of = [&](int y, int j) { return (top + y) * image.words + left / 32 + j; };

    for (int y = int(threadIdx.x / 32); y < kTileRows; y += kThreads / 32) {
      int32_t own[kTileWords], above[kTileWords];
#pragma unroll
      for (int j = 0; j < kTileWords; ++j) {
        const int x = 32 * j + lane();
        const bool inside = y < rows && x < columns;
        own[j] = inside ? max(image.labels[pixel(y, x)], -1) : -1;
        above[j] = inside && y > 0 ? image.labels[pixel(y - 1, x)] : -1;
      }
      int32_t before = -1;  // label to the left of the word
#pragma unroll
      for (int j = 0; j < kTileWords; ++j) {
        const int x = 32 * j + lane();
        const bool inside = y < rows && x < columns;
        const int32_t label = own[j];
        int32_t to_left = __shfl_up_sync(kAllLanes, label, 1);
        if (lane() == 0) to_left = before;
        before = __shfl_sync(kAllLanes, label, 31);
        const bool begins = inside && (x == 0 || label != to_left);
        const uint32_t set = __ballot_sync(kAllLanes, begins);
        const uint32_t as_above = __ballot_sync(kAllLanes, label >= 0 && label == above[j]);
        if (begins) parent[y * kTileColumns + x] = label >= 0 ? y * kTileColumns + x : -1;
        if (lane() > 0) continue;
        starts[y * kTileWords + j] = set;
        same[y * kTileWords + j] = as_above;
        if (!summed || !inside) continue;
        const bool goes_on = j == 0 && left > 0 && max(image.labels[pixel(y, -1)], -1) == label;
        image.starts[word_of(y, j)] = goes_on ? set & ~1u : set;
      }
    }
    __syncthreads();
    const int word = int(threadIdx.x), own_row = word / kTileWords, own_column = word % kTileWords * 32;
    if (own_row > 0) {
      // Where neither run begins the pixels to the left match, too.
      for (uint32_t set = same[word] & (starts[word] | starts[word - kTileWords]); set; set &= set - 1) {
        const int bit = __ffs(int(set)) - 1;
        join_sets(parent, run_begin(starts, word - kTileWords, bit), run_begin(starts, word, bit));
      }
    }
    __syncthreads();
    if (own_row < rows && own_column < columns) {
      const int size = min(32, columns - own_column);
      for (uint32_t set = starts[word] | 1; set; set &= set - 1) {
        const int bit = __ffs(int(set)) - 1, end = set & (set - 1) ? __ffs(int(set & (set - 1))) - 1 : size;
        const int32_t run = run_begin(starts, word, bit);
        if (static_cast<volatile int32_t*>(parent)[run] < 0) continue;
        const int32_t root = index_root(parent, run);
        if (root != run) parent[run] = root;
        if (sized) atomicAdd(&parent[root], (end - bit) << kIndexBits);
      }
    }
    __syncthreads();
    for (int y = int(threadIdx.x / 32); y < rows; y += kThreads / 32) {
      for (int j = 0; 32 * j < columns; ++j) {
        const int x = 32 * j + lane();
        int32_t entry = -1;
        if (x < columns) entry = parent[run_begin(starts, y * kTileWords + j, lane())];
        const int32_t root = entry & (kTilePixels - 1);
        const int32_t place = int32_t(pixel(root / kTileColumns, root % kTileColumns));
        const bool is_root = entry >= 0 && root == y * kTileColumns + x;
        const uint32_t set = __ballot_sync(kAllLanes, is_root);
        if (lane() == 0) image.tile_bits[word_of(y, j)] = set;
        if (x < columns) image.tile_root[pixel(y, x)] = entry < 0 ? -1 : place;
        if (!is_root) continue;
        image.component[place] = place;
        if (image.strip_root) image.strip_root[place] = place;
        if (sized) {
          // The root's own entry: only it has the size.
          image.size[place] = parent[root] >> kIndexBits;
        }
      }
    }
    // What later launches count in, and the table of labels: each tile clears its share.
    if (tile == 0 && threadIdx.x < kCounters) image.counters[threadIdx.x] = 0;
    if (image.largest_only) {
      const int64_t share = (image.table_size + tiles - 1) / tiles,
                    end = min((tile + 1) * share, int64_t(image.table_size));
      for (int64_t i = tile * share + threadIdx.x; i < end; i += kThreads) image.table[i] = -1;
    }
    __syncthreads();
  }
}

}  // namespace dhvt
