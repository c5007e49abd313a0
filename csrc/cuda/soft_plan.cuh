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
  CellGrid grid;
  int64_t batch;
  int64_t pitch, patches;            // width of a whole cell; patches that it takes
  int tile_rows, tile_columns;       // cells of a tile
  int warps;                         // that share a cell
  int parts, rounds;                 // blocks that share a tile; patches of each of their warps, one after the other
  int64_t tiles_down, tiles_across;  // of an image
  uint32_t divisor;                  // 2^32 / pitch, rounded up

  Plan(const CellGrid& grid_, int64_t batch_)
      : grid(grid_), batch(batch_), pitch(std::max<int64_t>(std::min(grid_.cell, grid_.width), 1)) {
    const int64_t pixels = pitch * std::max<int64_t>(std::min(grid.cell, grid.height), 1);
    patches = (pixels + kPatch - 1) / kPatch;
    warps = patches <= 1 ? 1 : patches == 2 ? 2 : kWarps;
    tile_rows = warps == 1 ? 2 : 1;
    tile_columns = warps <= 2 ? 2 : 1;
    parts = int(std::min<int64_t>((patches + 4 * kWarps - 1) / (4 * kWarps), 64));
    rounds = int((patches + warps * parts - 1) / (warps * parts));
    tiles_down = (grid.rows + tile_rows - 1) / tile_rows;
    tiles_across = (grid.columns + tile_columns - 1) / tile_columns;
    divisor = pitch > 1 ? uint32_t((uint64_t(1) << 32) / uint64_t(pitch) + 1) : 0;
  }

  DHVT_HD int64_t tiles() const { return tiles_down * tiles_across; }
  DHVT_HD int64_t blocks() const { return batch * tiles() * parts; }
  DHVT_HD int halo_columns() const { return tile_columns + 2; }
  DHVT_HD int halo() const { return (tile_rows + 2) * halo_columns(); }
  // Numbers of the workspace for sums of so many entries.
  DHVT_HD int64_t sums(int64_t entries) const { return blocks() * halo() * entries; }
};

// The part of a tile that a block is at, and the cell that one of its warps is at.
struct Place {
  int64_t b, tile_row, tile_column;
  int part;
  int64_t row, column;  // of the cell
  bool inside;          // the image has it

  __device__ __forceinline__ Place(const Plan& plan, int64_t block, int warp) {
    part = int(block % plan.parts);
    int64_t tile = block / plan.parts;
    tile_column = tile % plan.tiles_across, tile /= plan.tiles_across;
    tile_row = tile % plan.tiles_down, b = tile / plan.tiles_down;
    const int cell = warp / plan.warps;
    row = tile_row * plan.tile_rows + cell / plan.tile_columns;
    column = tile_column * plan.tile_columns + cell % plan.tile_columns;
    inside = row < plan.grid.rows && column < plan.grid.columns;
  }

  __device__ __forceinline__ int64_t tile(const Plan& plan) const {
    return (b * plan.tiles_down + tile_row) * plan.tiles_across + tile_column;
  }
};

// body(place, round) of every patch of this warp; all warps of a block go through it together.
template <typename Body>
__device__ __forceinline__ void for_each_patch(const Plan& plan, const Body& body) {
  for (int64_t block = blockIdx.x; block < plan.blocks(); block += gridDim.x) {
    const Place place(plan, block, int(threadIdx.x / 32));
    for (int round = 0; round < plan.rounds; ++round) body(place, round);
  }
}

// What the tiles around a centre have for it: record q of `count`, in a fixed order.
struct Contributions {
  const Plan& plan;
  int64_t b, row, column;
  int64_t top, left;
  int down, across, count;

  // Of the centre's own tile alone, or of all whose halo has it.
  __device__ __forceinline__ Contributions(const Plan& plan_, int64_t b_, int64_t row_, int64_t column_, bool own)
      : plan(plan_), b(b_), row(row_), column(column_) {
    const int64_t reach = own ? 0 : 1;
    const auto low = [&](int64_t i) { return i > reach ? i - reach : 0; };
    const auto high = [&](int64_t i, int64_t end) { return i + reach < end ? i + reach : end - 1; };
    top = low(row) / plan.tile_rows;
    left = low(column) / plan.tile_columns;
    down = int(high(row, plan.grid.rows) / plan.tile_rows - top) + 1;
    across = int(high(column, plan.grid.columns) / plan.tile_columns - left) + 1;
    if (own) top = row / plan.tile_rows, left = column / plan.tile_columns, down = across = 1;
    count = down * across * plan.parts;
  }

  // The offset of a record of the workspace.
  __device__ __forceinline__ int64_t at(int q, int64_t entries) const {
    const int tile = q / plan.parts;
    const int64_t y = top + tile / across, x = left + tile % across;
    const int64_t block = ((b * plan.tiles_down + y) * plan.tiles_across + x) * plan.parts + q % plan.parts;
    const int64_t slot = (row - y * plan.tile_rows + 1) * plan.halo_columns() + column - x * plan.tile_columns + 1;
    return (block * plan.halo() + slot) * entries;
  }
};

// body(at, entry, sum, first) for every entry of the sums of a cell's centre, by `lanes` threads of which this is one:
// a warp, or several. `first` is the sum of entry 0, which all of them know.
template <typename acc, typename Body>
__device__ __forceinline__ void gather_center(const Contributions& from, const acc* sums /* workspace */,
                                              int64_t entries, int thread, int threads, const Body& body) {
  acc first = 0;
  for (int q = lane(); q < from.count; q += 32) first += __ldcg(sums + from.at(q, entries));
  first = warp_sum(first);
  const int64_t at = from.b * from.plan.grid.cells() + from.row * from.plan.grid.columns + from.column;
  for (int64_t r = thread; r < entries; r += threads) {
    acc sum = first;
    if (r > 0) {
      sum = 0;
      for (int q = 0; q < from.count; ++q) sum += __ldcg(sums + from.at(q, entries) + r);
    }
    body(at, r, sum, first);
  }
}

}  // namespace dhvt
