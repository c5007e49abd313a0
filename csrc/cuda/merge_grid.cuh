// The first round of merging from the pixels: the leaves, and the best neighbour of each pixel, on the grid itself.
#pragma once

#include "any_image.h"
#include "cuda/merge_chain.cuh"
#include "cuda/merge_wide.cuh"

namespace dhvt {

// A block's pixels, and with those around them.
constexpr int kGridColumns = 32, kGridRows = kThreads / kGridColumns;
constexpr int kRingColumns = kGridColumns + 2, kRing = kRingColumns * (kGridRows + 2);
// Pairs of neighbours with one of the block's pixels, side by side and one above the other.
constexpr int kSidePairs = kGridRows * (kGridColumns + 1), kPairs = kSidePairs + (kGridRows + 1) * kGridColumns;
constexpr int kPairsPerThread = (kPairs + kThreads - 1) / kThreads;
constexpr int kGridChannels = 8;  // in shared memory at a time

// The pixels of a batch; of one image, its own.
template <typename T>
struct PixelGrid {
  static constexpr bool kLeaves = true;
  AnyImage<T> features;
  const bool* mask;  // [B,H,W] or null
  int32_t height, width;

  __device__ PixelGrid of_image(int64_t b) const {
    PixelGrid grid = *this;
    if (mask) grid.mask += b * height * width;
    return grid;
  }

  DHVT_HD int64_t columns() const { return (width + kGridColumns - 1) / kGridColumns; }
  DHVT_HD int64_t tiles() const { return columns() * ((height + kGridRows - 1) / kGridRows); }

  __device__ bool inside(int64_t y, int64_t x) const {
    return y >= 0 && y < height && x >= 0 && x < width && (mask == nullptr || mask[y * width + x]);
  }

  // body(vertex, length) for each neighbour of a pixel that is inside.
  template <typename Body>
  __device__ void for_neighbours(int32_t v, const Body& body) const {
    const int32_t y = v / width, x = v % width;
    if (inside(y - 1, x)) body(v - width, 1u);
    if (inside(y, x - 1)) body(v - 1, 1u);
    if (inside(y, x + 1)) body(v + 1, 1u);
    if (inside(y + 1, x)) body(v + width, 1u);
  }
  template <typename Real>
  __device__ NodeShape<Real> leaf(int32_t v) const {
    const int32_t y = v / width, x = v % width;
    return {v, 1, uint32_t(degree(v)), {Real(y), Real(x)}, {y, x, y, x}};
  }
  __device__ int32_t degree(int32_t v) const {
    int32_t count = 0;
    for_neighbours(v, [&](int32_t, uint32_t) { ++count; });
    return count;
  }
};

template <typename T>
constexpr size_t kGridBytes = sizeof(T) * (kPairs + kGridChannels * kRing);

struct PairCells {
  int low, high;
};

// The cells of the ring that are a pair.
__device__ __forceinline__ PairCells pair_cells(int pair) {
  if (pair < kSidePairs) {
    const int cell = (pair / (kGridColumns + 1) + 1) * kRingColumns + pair % (kGridColumns + 1);
    return {cell, cell + 1};
  }
  pair -= kSidePairs;
  const int cell = pair / kGridColumns * kRingColumns + pair % kGridColumns + 1;
  return {cell, cell + kRingColumns};
}

// Writes what is not a feature of a leaf, and what it picks.
template <typename T>
__device__ __forceinline__ void pick_pixel(const WideRound<T>& round, const PixelGrid<T>& image, int32_t y, int32_t x,
                                           const typename WideRound<T>::Bits* distances) {
  const int32_t v = y * image.width + x, row = y % kGridRows, column = x % kGridColumns;
  const bool used = image.inside(y, x);
  round.task.parent[v] = -1;
  round.task.round[v] = used ? 0 : -1;
  const NodeShape<T> unused{v, 0, 0, {T(0), T(0)}, {0, 0, -1, -1}};
  (used ? image.template leaf<T>(v) : unused).store(round.task.node);

  auto best = ~typename WideRound<T>::Bits(0);
  int32_t neighbour = kNoVertex;
  const auto look = [&](int pair, int32_t other) {  // in the order of the vertices
    if (distances[pair] >= best) return;
    best = distances[pair];
    neighbour = other;
  };
  const int side = row * (kGridColumns + 1) + column, above = kSidePairs + row * kGridColumns + column;
  look(above, v - image.width);
  look(side, v - 1);
  look(side + 1, v + 1);
  look(above + kGridColumns, v + image.width);
  round.pick(v, best, neighbour);
}

// A block's 32 x 8 pixels, whose features and those of the ring around them go through shared memory, `here` channels
// from c0 on at a time.
template <typename T>
struct PixelTile {
  const WideRound<T>& round;
  const PixelGrid<T>& image;
  int64_t b;
  int32_t y0, x0;
  T* values;  // [channels][ring]

  __device__ int32_t row(int cell) const { return y0 - 1 + cell / kRingColumns; }
  __device__ int32_t column(int cell) const { return x0 - 1 + cell % kRingColumns; }

  __device__ void load(int64_t c0, int here) const {
    const AnyImage<T>& features = image.features;
    for (int cell = int(threadIdx.x); cell < kRing; cell += kThreads) {
      const int32_t y = row(cell), x = column(cell);
      const bool exists = y >= 0 && y < image.height && x >= 0 && x < image.width;
      const int64_t at = features.at(b, y, x) + c0 * features.channel_stride;
      features.visit([&](const auto* from) {
#pragma unroll
        for (int c = 0; c < kGridChannels; ++c)
          if (c < here) values[c * kRing + cell] = exists ? T(from[at + c * features.channel_stride]) : T(0);
      });
    }
  }

  // Neighbouring threads take neighbouring channels, then neighbouring columns; as many rows at a time as there are
  // threads for.
  __device__ void write_means(int64_t c0, int here) const {
    const auto& node = round.task.node;
    const int items = here * kGridColumns, rows = kThreads / items, own = int(threadIdx.x);
    const int c = own % here, cell = own % items / here + 1;
    for (int r = own / items; own < rows * items && r < kGridRows; r += rows) {
      const int32_t y = y0 + r, x = column(cell);
      if (y >= image.height || x >= image.width) return;
      const int64_t out = (int64_t(y) * image.width + x) * round.task.channels + c0 + c;
      node.mean[out] = image.inside(y, x) ? values[c * kRing + (r + 1) * kRingColumns + cell] : T(0);
      node.m2[out] = T(0);
    }
  }

  // The most for a pair of which one is not there.
  __device__ typename WideRound<T>::Bits distance(const PairCells& pair, T square) const {
    const int32_t y = row(pair.low), x = column(pair.low), other_y = row(pair.high), other_x = column(pair.high);
    if (!image.inside(y, x) || !image.inside(other_y, other_x)) return ~typename WideRound<T>::Bits(0);
    const int32_t box[4] = {y, x, y, x}, other_box[4] = {other_y, other_x, other_y, other_x};
    return ordered_bits(
        merge_distance_of_square<T>(round.task.kind, round.task.compactness, square, T(1), T(1), box, other_box, T(1)));
  }
};

// A thread adds up the squared distances of two or three pairs, and then looks at the four pairs of its pixel. Reads
// the features once and a ring from the cache; writes the leaves, 8 C + 40 bytes in float32, and 16 bytes for the
// round.
template <typename T>
__global__ void __launch_bounds__(kThreads) pick_pixels_kernel(WideRound<T> first, PixelGrid<T> grid, int64_t batch) {
  using Bits = typename WideRound<T>::Bits;
  static_assert(sizeof(Bits) == sizeof(T));
  Bits* const distances = shared_memory<Bits>();               // [pairs]
  T* const values = reinterpret_cast<T*>(distances + kPairs);  // [channels][ring]
  const int64_t columns = grid.columns(), tiles = grid.tiles(), channels = first.task.channels;
  for (int64_t block = blockIdx.x; block < batch * tiles; block += gridDim.x) {
    const int64_t b = block / tiles, in_image = block % tiles;
    const WideRound<T> round = first.of_image(b);
    const PixelGrid<T> image = grid.of_image(b);
    const PixelTile<T> tile{
        round, image, b, int32_t(in_image / columns * kGridRows), int32_t(in_image % columns * kGridColumns), values};
    const int32_t leaves = int32_t(round.task.leaves);
    if (in_image == 0 && threadIdx.x == 0) *round.state = {leaves, 0, leaves, 0};
    const auto each_pair = [&](const auto& body) {  // unrolled: a thread's squares are in registers
#pragma unroll
      for (int k = 0; k < kPairsPerThread; ++k)
        if (const int pair = int(threadIdx.x) + k * kThreads; pair < kPairs) body(k, pair);
    };
    const bool contrast = round.task.kind == MergeDistance::kContrast;
    T squares[kPairsPerThread] = {};
    for (int64_t c0 = 0; c0 < channels; c0 += kGridChannels) {
      const int here = int(min(channels - c0, int64_t(kGridChannels)));
      tile.load(c0, here);
      __syncthreads();
      each_pair([&](int k, int pair) {
        const PairCells cells = pair_cells(pair);
        for (int c = 0; c < here; ++c) {
          const T delta = values[c * kRing + cells.low] - values[c * kRing + cells.high];
          squares[k] += contrast ? delta * delta / round.task.noise : delta * delta;  // nothing varies in a pixel
        }
      });
      tile.write_means(c0, here);
      __syncthreads();
    }
    each_pair([&](int k, int pair) { distances[pair] = tile.distance(pair_cells(pair), squares[k]); });
    __syncthreads();
    const int32_t y = tile.y0 + int(threadIdx.x) / kGridColumns, x = tile.x0 + int(threadIdx.x) % kGridColumns;
    if (y < grid.height && x < grid.width) pick_pixel(round, image, y, x, distances);
    __syncthreads();
  }
}

}  // namespace dhvt
