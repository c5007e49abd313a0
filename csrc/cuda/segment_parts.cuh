// What the tiles of a batch leave for their segments, and how a segment finds it again.
//
// Every tile sums its pixels per segment: a part for each segment that it holds, in ascending order of labels. A
// segment knows the rows and the columns of tiles that hold it, as bits, so few tiles are searched in vain; for one of
// any shape it is at most all tiles. Parts lie at fixed places, and only those in use are touched.
#pragma once

#include "cuda/launch.cuh"

namespace dhvt {

constexpr int kLists = 4;  // a tile has so many lists of parts; mostly all are in the first

// Tiles of rows x columns pixels; `down` x `across` of them cover an image.
struct Tiling {
  int64_t batch, height, width;
  int64_t rows, columns, down, across;

  int64_t per_image() const { return down * across; }
  int64_t count() const { return batch * per_image(); }
};

inline Tiling tiling_of(const Tensor& labels, int64_t rows, int64_t columns) {
  const int64_t height = labels.size(1), width = labels.size(2);
  return {labels.size(0), height, width, rows, columns, (height + rows - 1) / rows, (width + columns - 1) / columns};
}

// A tile's place in the batch.
struct TilePlace {
  int64_t image, down, across, top, left;

  __device__ TilePlace(const Tiling& tiling, int64_t tile)
      : image(tile / (tiling.down * tiling.across)),
        down(tile / tiling.across % tiling.down),
        across(tile % tiling.across),
        top(down * tiling.rows),
        left(across * tiling.columns) {}
};

// Labels of one image; -1 for no segment, and outside the image.
struct ImageLabels {
  const int32_t* data;  // [H,W]
  int64_t height, width;
  uint32_t limit;

  __device__ __forceinline__ int32_t valid(int32_t label) const { return uint32_t(label) < limit ? label : -1; }
  __device__ __forceinline__ int32_t at(int64_t y, int64_t x) const {
    return y >= 0 && y < height && x >= 0 && x < width ? valid(data[y * width + x]) : -1;
  }
};

__device__ __forceinline__ ImageLabels labels_of(const int32_t* labels, const Tiling& tiling, int64_t image,
                                                 int64_t num_segments) {
  return {labels + image * tiling.height * tiling.width, tiling.height, tiling.width,
          uint32_t(num_segments < INT32_MAX ? num_segments : INT32_MAX)};
}

// The rows and columns of tiles that hold a segment, one bit for each, or for a few neighbours of a large image.
struct alignas(16) Held {
  uint32_t rows[2], columns[2];
};

__device__ __forceinline__ int64_t tiles_of_bit(int64_t tiles) { return (tiles + 63) / 64; }
__device__ __forceinline__ int64_t bit_of_tile(int64_t i, int64_t tiles) { return i / tiles_of_bit(tiles); }

__device__ __forceinline__ void set_bit(uint32_t* bits, int64_t i) { atomicOr(bits + i / 32, uint32_t(1) << i % 32); }

// The place of the n-th bit that is set.
__device__ __forceinline__ int nth_bit(uint32_t low, uint32_t high, int n) {
  const int of_low = __popc(low), offset = n < of_low ? 0 : 32;
  uint32_t bits = n < of_low ? low : high;
  for (int skip = n < of_low ? n : n - of_low; skip > 0; --skip) bits &= bits - 1;
  return offset + __ffs(int(bits)) - 1;
}

// What a segment has in a tile besides its features; places are relative to the tile.
struct alignas(16) Shape {
  uint32_t count_and_boundary;  // count: the 12 bits below
  uint32_t sum_y, sum_x;
  uint32_t box;  // ymin, xmin, ymax, xmax: a byte each, from the lowest

  __device__ int32_t count() const { return int32_t(count_and_boundary & 0xfff); }
  __device__ int32_t boundary() const { return int32_t(count_and_boundary >> 12); }
  __device__ int32_t side(int i) const { return int32_t(box >> 8 * i & 0xff); }
};

template <typename Part>
struct Parts {
  Held* held;       // [B,K], zero before the tiles
  int32_t* ends;    // [tiles][kLists]: where the lists end
  int32_t* labels;  // [tiles][capacity]
  Part* values;     // [tiles][capacity][channels]
  Shape* shapes;    // [tiles][capacity], or null
  int64_t capacity, channels;

  // The place of a segment's part in list `list` of a tile; -1 if there is none.
  __device__ int64_t find(int64_t tile, int list, int32_t label) const {
    int32_t first = list == 0 ? 0 : ends[tile * kLists + list - 1], size = ends[tile * kLists + list] - first;
    const int32_t* sorted = labels + tile * capacity;
    const int32_t end = first + size;
    while (size > 0) {  // the first that is not below
      const int32_t half = size / 2;
      if (sorted[first + half] < label) {
        first += half + 1;
        size -= half + 1;
      } else {
        size = half;
      }
    }
    return first < end && sorted[first] == label ? tile * capacity + first : -1;
  }
};

// The tiles that may hold a segment, in a fixed order.
struct Candidates {
  Held held;
  int64_t first, down, across, row_tiles, column_tiles, columns, count;

  __device__ Candidates(const Held& held_, const Tiling& tiling, int64_t image) {
    held = held_;
    down = tiling.down;
    across = tiling.across;
    first = image * down * across;
    row_tiles = tiles_of_bit(down);
    column_tiles = tiles_of_bit(across);
    columns = (__popc(held.columns[0]) + __popc(held.columns[1])) * column_tiles;
    count = (__popc(held.rows[0]) + __popc(held.rows[1])) * row_tiles * columns;
  }

  // -1 past the image's last row or column of tiles.
  __device__ int64_t tile(int64_t i) const {
    const int row = int(i / columns), column = int(i % columns);
    const int64_t y = nth_bit(held.rows[0], held.rows[1], int(row / row_tiles)) * row_tiles + row % row_tiles;
    const int64_t x =
        nth_bit(held.columns[0], held.columns[1], int(column / column_tiles)) * column_tiles + column % column_tiles;
    return y < down && x < across ? first + y * across + x : -1;
  }
};

}  // namespace dhvt
