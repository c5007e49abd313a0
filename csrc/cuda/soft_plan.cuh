// How the soft operators share out an image: what warps, blocks and launches do.
//
// A warp takes a patch of 64 pixels of one cell, neighbours in the cell's raster order, two per lane. A block of four
// warps takes a tile: four cells of up to 64 pixels, two of up to 128, else one; larger cells in several rounds, and
// very large ones by several blocks (parts). What a tile has for the centres of its cells and of those around them (its
// halo) is added up in the block, warp by warp, and left in the workspace: [B,tiles,parts,halo,entries]. The sums of a
// centre over the tiles around it are taken by whoever needs them, always in the same order.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/warp.cuh"
#include "soft_assign.h"

namespace dhvt {

constexpr int kWarps = 4;
constexpr int kSoftThreads = 32 * kWarps;
constexpr int kPatch = 64;  // pixels of a warp
constexpr int kPerLane = kPatch / 32;

struct Plan {
  int64_t batch;
  int height, width, cell, rows, columns;  // of the image in pixels; of cells, no larger than the image
  int pitch;                               // width of a whole cell
  int64_t patches;                         // that a whole cell takes
  int tile_rows, tile_columns;             // cells of a tile
  int warps;                               // that share a cell
  int parts, rounds;             // blocks that share a tile; patches of each of their warps, one after the other
  int tiles_down, tiles_across;  // of an image
  uint32_t divisor;              // 2^32 / pitch, rounded up

  Plan(int64_t batch_, int64_t height_, int64_t width_, int64_t cell_)
      : batch(batch_),
        height(int(height_)),
        width(int(width_)),
        cell(int(std::max<int64_t>(std::min(cell_, std::max(height_, width_)), 1))),
        rows((height + cell - 1) / cell),
        columns((width + cell - 1) / cell),
        pitch(std::max(std::min(cell, width), 1)) {
    STD_TORCH_CHECK(std::max(height_, width_) < (int64_t(1) << 30), "features: larger than 2^30 pixels to a side");
    STD_TORCH_CHECK(cells() < (int64_t(1) << 31), "cell: more than 2^31 - 1 cells in an image");
    patches = (int64_t(pitch) * std::max(std::min(cell, height), 1) + kPatch - 1) / kPatch;
    warps = patches <= 1 ? 1 : patches == 2 ? 2 : kWarps;
    tile_rows = warps == 1 ? 2 : 1;
    tile_columns = warps <= 2 ? 2 : 1;
    parts = int(std::min<int64_t>((patches + 4 * kWarps - 1) / (4 * kWarps), 64));
    rounds = int((patches + warps * parts - 1) / (warps * parts));
    tiles_down = (rows + tile_rows - 1) / tile_rows;
    tiles_across = (columns + tile_columns - 1) / tile_columns;
    divisor = pitch > 1 ? uint32_t((uint64_t(1) << 32) / uint64_t(pitch) + 1) : 0;
  }

  DHVT_HD int64_t cells() const { return int64_t(rows) * columns; }
  DHVT_HD int64_t tiles() const { return int64_t(tiles_down) * tiles_across; }
  DHVT_HD int64_t blocks() const { return batch * tiles() * parts; }
  DHVT_HD int halo_columns() const { return tile_columns + 2; }
  DHVT_HD int halo() const { return (tile_rows + 2) * halo_columns(); }
  // Numbers of the workspace for sums of so many entries.
  DHVT_HD int64_t sums(int64_t entries) const { return blocks() * halo() * entries; }

  // Size of the cells of a row or column along their axis; the last may be smaller.
  DHVT_HD int size(int axis, int at) const {
    return at + 1 < (axis == 0 ? rows : columns) ? cell : (axis == 0 ? height : width) - at * cell;
  }
  // The middle of their pixels.
  template <typename acc>
  DHVT_HD acc middle(int axis, int at) const {
    return acc(at * cell) + acc(size(axis, at) - 1) / 2;
  }
};

// The part of a tile that a block is at, and the cell that one of its warps is at.
struct Place {
  int64_t b;
  int tile_row, tile_column, part;
  int row, column;  // of the cell
  bool inside;      // the image has it

  __device__ __forceinline__ Place(const Plan& plan, int64_t b_, int tile, int part_, int warp)
      : b(b_), tile_row(tile / plan.tiles_across), tile_column(tile % plan.tiles_across), part(part_) {
    const int cell = warp / plan.warps;
    row = tile_row * plan.tile_rows + cell / plan.tile_columns;
    column = tile_column * plan.tile_columns + cell % plan.tile_columns;
    inside = row < plan.rows && column < plan.columns;
  }

  __device__ __forceinline__ int64_t tile(const Plan& plan) const {
    return b * plan.tiles() + tile_row * plan.tiles_across + tile_column;
  }
  // Of a [B,L] array.
  __device__ __forceinline__ int64_t cell(const Plan& plan) const {
    return b * plan.cells() + row * plan.columns + column;
  }
};

// A range of images.
struct Images {
  int64_t begin, end;
};

// body(place, round) of every patch of this warp; all warps of a block go through it together. Blocks are
// [B,tiles,parts], images along y of the grid; there may be fewer than that.
template <typename Body>
__device__ __forceinline__ void for_each_patch(const Plan& plan, const Images& images, const Body& body) {
  const int of_image = int(plan.tiles()) * plan.parts;
  for (int64_t b = images.begin + blockIdx.y; b < images.end; b += gridDim.y)
    for (int block = int(blockIdx.x); block < of_image; block += int(gridDim.x)) {
      const Place place(plan, b, block / plan.parts, block % plan.parts, int(threadIdx.x / 32));
#pragma unroll 1
      for (int round = 0; round < plan.rounds; ++round) body(place, round);
    }
}

template <typename Body>
__device__ __forceinline__ void for_each_patch(const Plan& plan, const Body& body) {
  for_each_patch(plan, {0, plan.batch}, body);
}

// What the tiles around a centre have for it: records of the workspace, in a fixed order.
struct Contributions {
  const Plan& plan;
  int64_t image;  // the first block of it
  int row, column, top, left, across, count;

  // Of a cell's centre: what its own tile has alone, or all whose halo has it.
  __device__ __forceinline__ Contributions(const Plan& plan_, const Place& place, bool own)
      : plan(plan_), image(place.b * plan_.tiles() * plan_.parts), row(place.row), column(place.column) {
    const int reach = own ? 0 : 1;
    top = (row > reach ? row - reach : own ? row : 0) / plan.tile_rows;
    left = (column > reach ? column - reach : own ? column : 0) / plan.tile_columns;
    const int bottom = (row + reach < plan.rows ? row + reach : plan.rows - 1) / plan.tile_rows;
    const int right = (column + reach < plan.columns ? column + reach : plan.columns - 1) / plan.tile_columns;
    across = right - left + 1;
    count = (bottom - top + 1) * across * plan.parts;
  }

  // Where record q begins.
  __device__ __forceinline__ int64_t at(int q, int entries) const {
    const int tile = q / plan.parts, y = top + tile / across, x = left + tile % across;
    const int64_t block = image + int64_t(y * plan.tiles_across + x) * plan.parts + q % plan.parts;
    const int slot = (row - y * plan.tile_rows + 1) * plan.halo_columns() + column - x * plan.tile_columns + 1;
    return (block * plan.halo() + slot) * entries;
  }
};

// body(entry, sum, first) for every entry of the sums of a centre, by `threads` threads of whole warps, of which this
// is number `thread`. `first` is the sum of entry 0, which all of them know.
template <typename acc, typename Body>
__device__ __forceinline__ void gather_center(const Contributions& from, const acc* sums /* workspace */, int entries,
                                              int thread, int threads, const Body& body) {
  acc first = 0;
#pragma unroll 1
  for (int q = lane(); q < from.count; q += 32) first += __ldcg(sums + from.at(q, entries));
  first = warp_sum(first);
#pragma unroll 1
  for (int r = thread; r < entries; r += threads) {
    acc sum = first;
    if (r > 0) {
      sum = 0;
      for (int q = 0; q < from.count; ++q) sum += __ldcg(sums + from.at(q, entries) + r);
    }
    body(r, sum, first);
  }
}

}  // namespace dhvt
