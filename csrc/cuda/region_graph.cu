// Which segments touch, and along how many pixel pairs.
#include "region_graph_host.h"

#include "cuda/launch.cuh"
#include "cuda/scan.cuh"

namespace dhvt {
namespace {

using Key = unsigned long long;  // u * K + v, for u < v: the order of the edges

constexpr int kTileRows = 32, kTileColumns = 256;
constexpr int kSlots = 2048, kProbes = 16;  // of a tile's hash table
constexpr int kWords = 4;                   // of 32 pixels, that a warp loads at once
constexpr Key kNoKey = ~Key(0);
constexpr int kOrderThreads = 1024, kOrderWarps = kOrderThreads / 32, kDigitBits = 8, kDigits = 1 << kDigitBits;

// Pairs of segments with a number of pixel pairs each; one pair of segments may be there several times.
struct Contacts {
  Key* key;
  int32_t* length;
};

// Tiles of an image, in raster order. A tile's contacts lie from 2 * (pixels of the tiles before it) on: it cannot have
// more than its pixels have neighbours to the right and below.
struct Tiling {
  int64_t batch, height, width, tile_rows, tile_columns;

  __device__ __forceinline__ int64_t tiles() const { return tile_rows * tile_columns; }
  __device__ __forceinline__ int64_t top(int64_t tile) const { return tile / tile_columns * kTileRows; }
  __device__ __forceinline__ int64_t left(int64_t tile) const { return tile % tile_columns * kTileColumns; }
  __device__ __forceinline__ int64_t rows(int64_t tile) const { return min(height - top(tile), int64_t(kTileRows)); }
  __device__ __forceinline__ int64_t columns(int64_t tile) const {
    return min(width - left(tile), int64_t(kTileColumns));
  }
  __device__ __forceinline__ int64_t begin(int64_t tile) const {
    return 2 * (top(tile) * width + rows(tile) * left(tile));
  }
};

// A tile's contacts: a hash table in shared memory, and what finds no place in it goes straight to the tile's list.
struct TileTable {
  Key* keys;         // [kSlots]
  int32_t* lengths;  // [kSlots]
  int32_t* count;    // of the list
  Contacts list;

  __device__ __forceinline__ bool insert(Key key, int32_t length) const {
    unsigned slot = unsigned(key ^ key >> 32) * 2654435769u >> 21;
    for (int probe = 0; probe < kProbes; ++probe, slot = (slot + 1) % kSlots) {
      const Key before = atomicCAS(&keys[slot], kNoKey, key);
      if (before != kNoKey && before != key) continue;
      atomicAdd(&lengths[slot], length);
      return true;
    }
    return false;
  }

  // All lanes of a warp; those that `take` part append.
  __device__ __forceinline__ void append(bool take, Key key, int32_t length) const {
    const unsigned set = __ballot_sync(kAllLanes, take);
    if (set == 0) return;
    int32_t at = 0;
    if (lane() == 0) at = atomicAdd(count, int32_t(__popc(set)));
    at = __shfl_sync(kAllLanes, at, 0) + __popc(set & lanes_below());
    if (!take) return;
    list.key[at] = key;
    list.length[at] = length;
  }

  // All lanes of a warp; a and b segments or -1.
  __device__ __forceinline__ void add(int32_t a, int32_t b, int32_t length, int64_t num_segments) const {
    const bool touch = a >= 0 && b >= 0 && a != b;
    const Key key = touch ? Key(min(a, b)) * Key(num_segments) + Key(max(a, b)) : 0;
    append(touch && !insert(key, length), key, length);
  }
};
static_assert(kSlots == 1 << (32 - 21));

// One block per tile, a warp per row and 32 lanes per 32 pixels: each pixel with its right and its lower neighbour,
// where the pairs below that follow one another along a row count as one. A few thousand insertions in shared memory
// become a few hundred contacts. Whole numbers, so the order does not matter. Reads 4 bytes per pixel (twice, from the
// cache).
__global__ void __launch_bounds__(kThreads)
    collect_kernel(const int32_t* __restrict__ labels /* [B,H,W] */, Tiling tiling, int64_t num_segments,
                   Contacts contacts /* [B,2 H W] */, int32_t* __restrict__ tile_counts /* [B,tiles] */) {
  TileTable table{shared_memory<Key>(), nullptr, nullptr, {}};
  table.lengths = reinterpret_cast<int32_t*>(table.keys + kSlots);
  table.count = table.lengths + kSlots;
  const int64_t height = tiling.height, width = tiling.width;
  for (int64_t task = blockIdx.x; task < tiling.batch * tiling.tiles(); task += gridDim.x) {
    const int64_t b = task / tiling.tiles(), tile = task % tiling.tiles();
    const int64_t top = tiling.top(tile), left = tiling.left(tile);
    const int rows = int(tiling.rows(tile)), columns = int(tiling.columns(tile));
    const int64_t begin = 2 * b * height * width + tiling.begin(tile);
    table.list = {contacts.key + begin, contacts.length + begin};
    for (int i = int(threadIdx.x); i < kSlots; i += kThreads) {
      table.keys[i] = kNoKey;
      table.lengths[i] = 0;
    }
    if (threadIdx.x == 0) *table.count = 0;
    __syncthreads();
    const auto segment = [&](int32_t label) { return label >= 0 && label < num_segments ? label : -1; };
    for (int y = int(threadIdx.x / 32); y < rows; y += kThreads / 32) {
      const int32_t* row = labels + (b * height + top + y) * width + left;
      const bool has_below = top + y + 1 < height;
      for (int x0 = 0; x0 < columns; x0 += 32 * kWords) {
        int32_t owns[kWords], belows[kWords];
#pragma unroll
        for (int k = 0; k < kWords; ++k) {
          const int x = x0 + 32 * k + lane();
          owns[k] = x < columns ? segment(row[x]) : -1;
          belows[k] = x < columns && has_below ? segment(row[width + x]) : -1;
        }
#pragma unroll
        for (int k = 0; k < kWords; ++k) {
          const int x = x0 + 32 * k + lane();
          const int32_t own = owns[k], below = belows[k];
          int32_t right = __shfl_down_sync(kAllLanes, own, 1);
          if (lane() == 31) right = x < columns && left + x + 1 < width ? segment(row[x + 1]) : -1;
          if (x + 1 == columns) right = left + x + 1 < width ? segment(row[x + 1]) : -1;
          table.add(own, right, 1, num_segments);
          const int32_t left_own = __shfl_up_sync(kAllLanes, own, 1), left_below = __shfl_up_sync(kAllLanes, below, 1);
          const bool begins = lane() == 0 || left_own != own || left_below != below;
          const unsigned later = __ballot_sync(kAllLanes, begins) & ~((2u << lane()) - 1);
          const int32_t length = (later ? __ffs(int(later)) - 1 : 32) - lane();
          table.add(begins ? own : -1, below, length, num_segments);
        }
      }
    }
    __syncthreads();
    for (int i = int(threadIdx.x); i < kSlots; i += kThreads)
      table.append(table.keys[i] != kNoKey, table.keys[i], table.lengths[i]);
    __syncthreads();
    if (threadIdx.x == 0) tile_counts[task] = *table.count;
    __syncthreads();
  }
}

// The tiles' lists, one after the other; returns how many contacts they are. All threads of the block.
__device__ __forceinline__ int32_t join_lists(const Tiling& tiling, const int32_t* tile_counts, const Contacts& from,
                                              const Contacts& to, int32_t* begin /* [kOrderThreads] */,
                                              int32_t* scratch) {
  int32_t done = 0;
  for (int64_t first = 0; first < tiling.tiles(); first += kOrderThreads) {
    const int64_t of_thread = first + threadIdx.x;
    int32_t total;
    begin[threadIdx.x] = done + block_prefix(of_thread < tiling.tiles() ? tile_counts[of_thread] : 0, scratch, total);
    __syncthreads();
    const int64_t last = min(tiling.tiles(), first + kOrderThreads);
    for (int64_t tile = first + threadIdx.x / 32; tile < last; tile += kOrderWarps) {
      const int64_t source = tiling.begin(tile), target = begin[tile - first];
      for (int32_t i = lane(); i < tile_counts[tile]; i += 32) {
        to.key[target + i] = from.key[source + i];
        to.length[target + i] = from.length[source + i];
      }
    }
    done += total;
    __syncthreads();
  }
  return done;
}

// One stable pass of a radix sort: each warp takes a stretch of the contacts, counts its digits, and puts its contacts
// behind those of smaller digits and of warps before it. counters [kOrderWarps,kDigits].
__device__ __forceinline__ void sort_digit(const Contacts& from, const Contacts& to, int32_t count, int shift,
                                           int32_t* counters, int32_t* scratch) {
  const int warp = int(threadIdx.x / 32);
  const int32_t share = int32_t(round_up((int64_t(count) + kOrderWarps - 1) / kOrderWarps, 32));
  const int64_t begin = int64_t(warp) * share, end = min(begin + share, int64_t(count));
  int32_t* own = counters + warp * kDigits;
  for (int i = lane(); i < kDigits; i += 32) own[i] = 0;
  __syncwarp();
  for (int64_t i = begin + lane(); i - lane() < end; i += 32) {
    const int digit = i < end ? int(from.key[i] >> shift) & (kDigits - 1) : kDigits;
    const unsigned same = __match_any_sync(kAllLanes, digit);
    if (i < end && leads(same)) own[digit] += __popc(same);
    __syncwarp();
  }
  __syncthreads();
  // Prefix sums in the order (digit, warp): a thread has the counters of some warps of one digit.
  constexpr int kShare = kDigits * kOrderWarps / kOrderThreads;
  int32_t* first = counters + int(threadIdx.x) % (kOrderWarps / kShare) * kShare * kDigits +
                   int(threadIdx.x) / (kOrderWarps / kShare);
  int32_t sum = 0, total;
  for (int i = 0; i < kShare; ++i) sum += first[i * kDigits];
  int32_t before = block_prefix(sum, scratch, total);
  for (int i = 0; i < kShare; ++i) {
    const int32_t here = first[i * kDigits];
    first[i * kDigits] = before;
    before += here;
  }
  __syncthreads();
  for (int64_t i = begin + lane(); i - lane() < end; i += 32) {
    const Key key = i < end ? from.key[i] : 0;
    const int digit = i < end ? int(key >> shift) & (kDigits - 1) : kDigits;
    const unsigned same = __match_any_sync(kAllLanes, digit);
    int32_t at = 0;
    if (i < end) at = own[digit] + __popc(same & lanes_below());
    __syncwarp();
    if (i < end) {
      to.key[at] = key;
      to.length[at] = from.length[i];
      if (leads(same)) own[digit] += __popc(same);
    }
    __syncwarp();
  }
  __syncthreads();
}

// One block per image: puts the tiles' lists together, sorts them by the edges' keys, and gives each key that is new
// its slot. A few thousand contacts of 12 bytes for each pass, from the caches; no limit on their number.
__global__ void __launch_bounds__(kOrderThreads)
    order_kernel(Contacts contacts, Contacts buffer /* both [B,2 H W] */,
                 const int32_t* __restrict__ tile_counts /* [B,tiles] */, Tiling tiling, int64_t num_segments,
                 int passes, int64_t capacity, int32_t* __restrict__ edges /* [B,E,2] */,
                 int32_t* __restrict__ lengths /* [B,E] */, int32_t* __restrict__ counts /* [B] */) {
  int32_t* counters = shared_memory<int32_t>();
  int32_t* scratch = counters + kOrderWarps * kDigits;
  for (int64_t b = blockIdx.x; b < tiling.batch; b += gridDim.x) {
    const int64_t offset = 2 * b * tiling.height * tiling.width;
    Contacts to{contacts.key + offset, contacts.length + offset}, from{buffer.key + offset, buffer.length + offset};
    int32_t* of_edges = edges + 2 * b * capacity;
    int32_t* of_lengths = lengths + b * capacity;
    for (int64_t i = threadIdx.x; i < capacity; i += kOrderThreads) {
      of_edges[2 * i] = of_edges[2 * i + 1] = -1;
      of_lengths[i] = 0;
    }
    const int32_t count = join_lists(tiling, tile_counts + b * tiling.tiles(), to, from, counters, scratch);
    for (int pass = 0; pass < passes; ++pass) {
      sort_digit(from, to, count, pass * kDigitBits, counters, scratch);
      const Contacts sorted = to;
      to = from;
      from = sorted;
    }
    int32_t done = 0;
    for (int64_t first = 0; first < count; first += kOrderThreads) {
      const int64_t i = first + threadIdx.x;
      const Key key = i < count ? from.key[i] : 0;
      const bool is_new = i < count && (i == 0 || from.key[i - 1] != key);
      int32_t total;
      const int64_t slot = done + block_prefix(is_new, scratch, total) + is_new - 1;
      done += total;
      if (i >= count || slot >= capacity) continue;
      if (is_new) {
        of_edges[2 * slot] = int32_t(key / Key(num_segments));
        of_edges[2 * slot + 1] = int32_t(key % Key(num_segments));
      }
      atomicAdd(&of_lengths[slot], from.length[i]);
    }
    if (threadIdx.x == 0) counts[b] = done;
    __syncthreads();
  }
}

// Passes over the digits of the largest key that K segments have.
int passes_for(int64_t num_segments) {
  Key largest = num_segments > 0 ? Key(num_segments) * Key(num_segments) - 1 : 0;
  int passes = 0;
  for (; largest > 0; largest >>= kDigitBits) ++passes;
  return passes;
}

std::tuple<Tensor, Tensor, Tensor> region_graph(const Tensor& labels, int64_t num_segments, int64_t capacity) {
  const Launcher launch(labels);
  return region_graph_checked(
      labels, num_segments, capacity,
      [&](const Tensor& labels, const Tensor& edges, const Tensor& lengths, const Tensor& counts) {
        const int64_t batch = labels.size(0), height = labels.size(1), width = labels.size(2);
        const Tiling tiling{batch, height, width, (height + kTileRows - 1) / kTileRows,
                            (width + kTileColumns - 1) / kTileColumns};
        STD_TORCH_CHECK(height * width < int64_t(1) << 30, "labels [B,H,W]: expected fewer than 2^30 pixels per image");
        const int64_t tiles = batch * tiling.tile_rows * tiling.tile_columns, most = 2 * batch * height * width;
        const Tensor workspace = empty({2 * most * 12 + tiles * 4}, ScalarType::Byte, labels);
        Key* keys = mutable_data<Key>(workspace);                        // [2,B,2 H W]
        int32_t* of_keys = reinterpret_cast<int32_t*>(keys + 2 * most);  // [2,B,2 H W]
        int32_t* tile_counts = of_keys + 2 * most;                       // [B,tiles]
        const Contacts contacts{keys, of_keys}, buffer{keys + most, of_keys + most};
        launch(collect_kernel, blocks_for(tiles), dim3(kThreads), kSlots * (sizeof(Key) + 4) + 4, data<int32_t>(labels),
               tiling, num_segments, contacts, tile_counts);
        launch(order_kernel, blocks_for(batch), dim3(kOrderThreads), (kOrderWarps * kDigits + 33) * 4, contacts, buffer,
               static_cast<const int32_t*>(tile_counts), tiling, num_segments, passes_for(num_segments), capacity,
               mutable_data<int32_t>(edges), mutable_data<int32_t>(lengths), mutable_data<int32_t>(counts));
      });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) { m.impl("region_graph", TORCH_BOX(&dhvt::region_graph)); }
