// The segments of a tile of 64 x 32 pixels, found by one block of threads.
//
// A thread takes a patch of 4 x 4 pixels and notes one record for each label that occurs there. The records are then
// sorted by segment, and within it by patch: a bitmap of the labels numbers the segments in ascending order, and a
// bitmap of each segment's patches the records. So nothing depends on the order in which threads run. A tile has 128 to
// 400 records in a segmented image; one of more than 512, as of noise, is taken in four lists, a warp's patches each.
#pragma once

#include "cuda/segment_parts.cuh"
#include "cuda/warp.cuh"

namespace dhvt {

constexpr int kPatch = 4;
constexpr int kTileColumns = 64, kTileRows = 32;
constexpr int kPatchesAcross = kTileColumns / kPatch;
constexpr int kTileThreads = kPatchesAcross * (kTileRows / kPatch);
constexpr int kTileWarps = kTileThreads / 32;
constexpr int kWarpRecords = 32 * kPatch * kPatch;  // the most that a warp's patches have
constexpr int kListRecords = kWarpRecords;          // the most in a list
constexpr int kWindow = 32 * kTileThreads;          // labels that are numbered at a time
static_assert(kTileWarps == kLists);

// Pixels of one label in one patch.
struct Record {
  uint32_t bits;  // pixels: 16 bits, patch: 7, boundary: 7

  __device__ __forceinline__ uint32_t pixels() const { return bits & 0xffff; }
  __device__ __forceinline__ int patch() const { return int(bits >> 16 & 0x7f); }
  __device__ __forceinline__ int boundary() const { return int(bits >> 23); }
  __device__ __forceinline__ int top() const { return patch() / kPatchesAcross * kPatch; }
  __device__ __forceinline__ int left() const { return patch() % kPatchesAcross * kPatch; }
};

// The beginning of shared memory. The functions below take it from there, and are not inlined: they are the same for
// every operator and dtype.
struct TileRecords {
  Record records[kTileWarps * kWarpRecords];   // of each warp's patches
  int32_t label[kTileWarps * kWarpRecords];    // of a record; ~slot as soon as its segment has one
  uint32_t patches[kListRecords][kTileWarps];  // of a slot: a bit for each that holds it
  uint16_t order[kListRecords];                // the records of a list, sorted
  uint16_t begin[kListRecords + 8];            // of a slot in `order`, and the end
  uint32_t window[kTileThreads];               // labels that occur
  uint16_t before[kTileThreads];               // slots before a word of `window`
  int32_t sums[kTileWarps];
  int32_t counts[kTileWarps];  // records of a warp
  int32_t lowest, padding[3];

  __device__ __forceinline__ int slot(int record) const { return ~label[record]; }
};

// The records of a list, in no particular order.
struct ListRange {
  int warp, ends[kTileWarps - 1], size;

  // All of the tile.
  __device__ static ListRange all(const int32_t* counts) {
    const int first = counts[0], second = first + counts[1], third = second + counts[2];
    return {0, {first, second, third}, third + counts[3]};
  }
  __device__ static ListRange of_warp(const int32_t* counts, int warp) {
    return {warp, {INT32_MAX, INT32_MAX, INT32_MAX}, counts[warp]};
  }

  __device__ __forceinline__ int operator[](int i) const {
    int of_warp = warp, first = 0;
    for (int end : ends)
      if (i >= end) {
        ++of_warp;
        first = end;
      }
    return of_warp * kWarpRecords + i - first;
  }
};

// The sum over the threads before this one, and over all.
__device__ __forceinline__ int block_scan(int v, int32_t* sums /* [kTileWarps], shared */, int& total) {
  const int up_to = warp_scan(v), warp = int(threadIdx.x) / 32;
  if (lane() == 31) sums[warp] = up_to;
  __syncthreads();
  int before = up_to - v;
  total = 0;
  for (int w = 0; w < kTileWarps; ++w) {
    if (w < warp) before += sums[w];
    total += sums[w];
  }
  __syncthreads();
  return before;
}

// For each pixel of a patch, the 4-neighbours in another segment, added up over the pixels of a record.
struct PatchBorders {
  uint32_t sides[4] = {};  // pixels that differ from the right, left, lower and upper neighbour

  __device__ __forceinline__ int count(uint32_t pixels) const {
    return __popc(pixels & sides[0]) + __popc(pixels & sides[1]) + __popc(pixels & sides[2]) +
           __popc(pixels & sides[3]);
  }
};

__device__ __forceinline__ PatchBorders find_borders(const int32_t (&label)[kPatch * kPatch], const ImageLabels& labels,
                                                     int64_t y, int64_t x) {
  const auto differ = [](int32_t a, int32_t b) { return uint32_t((a != b) & (a >= 0) & (b >= 0)); };
  PatchBorders out;
  uint32_t right = 0, down = 0;
#pragma unroll
  for (int i = 0; i < kPatch * kPatch; ++i) {
    if (i % kPatch < kPatch - 1) right |= differ(label[i], label[i + 1]) << i;
    if (i < kPatch * (kPatch - 1)) down |= differ(label[i], label[i + kPatch]) << i;
  }
  out.sides[0] = right;
  out.sides[1] = right << 1;
  out.sides[2] = down;
  out.sides[3] = down << kPatch;
#pragma unroll
  for (int i = 0; i < kPatch; ++i) {
    const int last = i * kPatch + kPatch - 1, lower = kPatch * (kPatch - 1) + i;
    out.sides[0] |= differ(label[last], labels.at(y + i, x + kPatch)) << last;
    out.sides[1] |= differ(label[i * kPatch], labels.at(y + i, x - 1)) << i * kPatch;
    out.sides[2] |= differ(label[lower], labels.at(y + kPatch, x + i)) << lower;
    out.sides[3] |= differ(label[i], labels.at(y - 1, x + i)) << i;
  }
  return out;
}

// Four numbers of a row at once, where they are aligned.
template <typename T>
struct alignas(kPatch * sizeof(T)) Quad {
  T values[kPatch];
};

// The pixels of a patch that are asked for, the others undefined. `quads`: see has_quads.
template <typename T>
__device__ __forceinline__ void load_patch(const T* first, int64_t row_stride, int64_t column_stride, bool quads,
                                           uint32_t pixels, T (&out)[kPatch * kPatch]) {
#pragma unroll
  for (int i = 0; i < kPatch; ++i) {
    const T* row = first + i * row_stride;
    const uint32_t wanted = pixels >> i * kPatch & 0xf;
    if (quads) {
      if (wanted != 0) {
        const Quad<T> quad = *reinterpret_cast<const Quad<T>*>(row);
#pragma unroll
        for (int j = 0; j < kPatch; ++j) out[i * kPatch + j] = quad.values[j];
      }
    } else {
#pragma unroll
      for (int j = 0; j < kPatch; ++j)
        if (wanted >> j & 1) out[i * kPatch + j] = row[j * column_stride];
    }
  }
}

// Whether every patch of a row that begins in the image is aligned, and ends in it.
template <typename T>
__host__ __device__ inline bool has_quads(const ImageView<const T>& view) {
  return view.column_stride == 1 && view.width % kPatch == 0 && view.row_stride % kPatch == 0 &&
         view.channel_stride % kPatch == 0 && view.batch_stride % kPatch == 0 &&
         reinterpret_cast<uintptr_t>(view.data) % sizeof(Quad<T>) == 0;
}

// A thread's patch -> its records. Ends with a barrier.
template <bool kBorders>
__device__ __attribute__((noinline)) void find_records(const ImageLabels labels, bool quads, const TilePlace place) {
  TileRecords& out = *shared_memory<TileRecords>();
  constexpr uint32_t kNone = ~uint32_t(0);
  const int warp = int(threadIdx.x) / 32;
  const int64_t y = place.top + threadIdx.x / kPatchesAcross * kPatch;
  const int64_t x = place.left + threadIdx.x % kPatchesAcross * kPatch;
  int32_t label[kPatch * kPatch];
#pragma unroll
  for (int32_t& own : label) own = -1;
  if (y < labels.height && x < labels.width) {
    const int64_t rows = labels.height - y, columns = labels.width - x;
    uint32_t inside = columns < kPatch ? ((1u << columns) - 1) * 0x1111 : 0xffff;
    if (rows < kPatch) inside &= (1u << rows * kPatch) - 1;
    load_patch(labels.data + y * labels.width + x, labels.width, 1, quads, inside, label);
  }
#pragma unroll
  for (int32_t& own : label) own = labels.valid(own);
  PatchBorders borders;
  if constexpr (kBorders)
    if (y < labels.height && x < labels.width) borders = find_borders(label, labels, y, x);
  int count = 0;
  for (;;) {
    uint32_t lowest = kNone;
#pragma unroll
    for (int i = 0; i < kPatch * kPatch; ++i) lowest = uint32_t(label[i]) < lowest ? uint32_t(label[i]) : lowest;
    const unsigned active = __ballot_sync(kAllLanes, lowest != kNone);
    if (active == 0) break;
    uint32_t pixels = 0;
#pragma unroll
    for (int i = 0; i < kPatch * kPatch; ++i)
      if (uint32_t(label[i]) == lowest) {
        pixels |= uint32_t(1) << i;
        label[i] = -1;
      }
    if (lowest != kNone) {
      const int at = warp * kWarpRecords + count + __popc(active & lanes_below());
      out.label[at] = int32_t(lowest);
      out.records[at].bits = pixels | threadIdx.x << 16 | uint32_t(borders.count(pixels)) << 23;
    }
    count += __popc(active);
  }
  if (lane() == 0) out.counts[warp] = count;
  __syncthreads();
}

// Where a tile notes its segments.
struct TileSegments {
  int32_t* labels;       // of each slot
  Held* held;            // [K] of the image
  int64_t down, across;  // the tile's bits
};

// Numbers the labels of a list in ascending order: label[record] = ~slot. Only the blocks that are told to note the
// segments. The number of slots, in every thread; ends with a barrier.
__device__ __attribute__((noinline)) inline int find_slots(const ListRange list, int64_t num_segments, bool note,
                                                           const TileSegments segments) {
  TileRecords& out = *shared_memory<TileRecords>();
  const int thread = int(threadIdx.x);
  int slots = 0;
  for (int64_t low = 0; low < num_segments; low += kWindow) {
    if (num_segments > kWindow) {  // leave out what has no labels
      if (thread == 0) out.lowest = INT32_MAX;
      __syncthreads();
      int32_t lowest = INT32_MAX;
      for (int i = thread; i < list.size; i += kTileThreads) {
        const int32_t label = out.label[list[i]];
        if (label >= 0 && label < lowest) lowest = label;
      }
      if (lowest < INT32_MAX) atomicMin(&out.lowest, lowest);
      __syncthreads();
      low = out.lowest;
      if (low == INT32_MAX) break;  // K <= INT32_MAX, so this is no label
    }
    out.window[thread] = 0;
    __syncthreads();
    for (int i = thread; i < list.size; i += kTileThreads) {
      const int64_t offset = out.label[list[i]] - low;
      if (offset >= 0 && offset < kWindow) set_bit(out.window, offset);
    }
    __syncthreads();
    uint32_t occur = out.window[thread];
    int found;
    int slot = slots + block_scan(__popc(occur), out.sums, found);
    out.before[thread] = uint16_t(slot);
    for (; note && occur != 0; occur &= occur - 1, ++slot) {
      const int64_t label = low + thread * 32 + __ffs(int(occur)) - 1;
      segments.labels[slot] = int32_t(label);
      set_bit(segments.held[label].rows, segments.down);
      set_bit(segments.held[label].columns, segments.across);
    }
    __syncthreads();
    for (int i = thread; i < list.size; i += kTileThreads) {
      const int record = list[i];
      const int64_t offset = out.label[record] - low;
      if (offset < 0 || offset >= kWindow) continue;
      const uint32_t lower = out.window[offset / 32] & ((uint32_t(1) << offset % 32) - 1);
      out.label[record] = ~(out.before[offset / 32] + __popc(lower));
    }
    slots += found;
    __syncthreads();
  }
  return slots;
}

// order[begin[s] .. begin[s + 1]) = the records of slot s, by patch. Ends with a barrier.
__device__ __attribute__((noinline)) inline void sort_records(const ListRange list, int slots) {
  TileRecords& out = *shared_memory<TileRecords>();
  const int thread = int(threadIdx.x);
  for (int i = thread; i < slots * kTileWarps; i += kTileThreads) out.patches[i / kTileWarps][i % kTileWarps] = 0;
  __syncthreads();
  for (int i = thread; i < list.size; i += kTileThreads)
    set_bit(out.patches[out.slot(list[i])], out.records[list[i]].patch());
  __syncthreads();
  const auto size = [&](int slot) {
    int sum = 0;
    for (int w = 0; w < kTileWarps; ++w) sum += __popc(out.patches[slot][w]);
    return sum;
  };
  constexpr int kEach = kListRecords / kTileThreads;
  int own = 0;
  for (int s = thread * kEach; s < thread * kEach + kEach && s < slots; ++s) own += size(s);
  int total;
  int begin = block_scan(own, out.sums, total);
  for (int s = thread * kEach; s < thread * kEach + kEach && s < slots; ++s) {
    out.begin[s] = uint16_t(begin);
    begin += size(s);
  }
  if (thread == 0) out.begin[slots] = uint16_t(total);
  __syncthreads();
  for (int i = thread; i < list.size; i += kTileThreads) {
    const int record = list[i], slot = out.slot(record), patch = out.records[record].patch();
    int rank = 0;
    for (int w = 0; w < kTileWarps; ++w) {
      uint32_t earlier = out.patches[slot][w];
      if (w == patch / 32) earlier &= (uint32_t(1) << patch % 32) - 1;
      if (w <= patch / 32) rank += __popc(earlier);
    }
    out.order[out.begin[slot] + rank] = uint16_t(record);
  }
  __syncthreads();
}

}  // namespace dhvt
