// Sums of a block's patches for the centres around them, and what completes the sums of a centre.
#pragma once

#include "cuda/soft_cell.cuh"

namespace dhvt {

// What a block shares beside its warps' memory.
struct TileShared {
  unsigned complete;  // tiles around, one bit each
};

template <typename Shared>
__device__ __forceinline__ TileShared& tile_shared(Shared* warps) {
  return *reinterpret_cast<TileShared*>(warps + kWarps);
}
template <typename Shared>
constexpr size_t block_bytes() {
  return kWarps * sizeof(Shared) + 16;
}

// Adds up what the warps have in `sums` for entries [first, first + count) of each centre of the halo, warp by warp,
// and after other rounds'; with `means` only of the tile's own centres. Thread by centre and entry; C + 3 numbers of 4
// (at the least) centres for each cell of a tile of four.
template <typename Shared, typename acc>
__device__ __forceinline__ void combine(const Plan& plan, const Place& place, bool means, int round,
                                        const Shared* warps, int first, int count, int entries, acc* sums) {
  __syncthreads();
  acc* out = sums + (place.tile(plan) * plan.parts + place.part) * plan.halo() * entries + first;
  const int reach = means ? 0 : 1, columns = plan.halo_columns(), size = plan.halo() * Shared::kRows;
#pragma unroll 1
  for (int i = int(threadIdx.x); i < size; i += kSoftThreads) {
    const int slot = i / Shared::kRows, d = i % Shared::kRows;
    if (d >= count) continue;
    const int slot_row = slot / columns - 1, slot_column = slot % columns - 1;
    acc sum = 0;
    for (int w = 0; w < kWarps; ++w) {
      const int cell = w / plan.warps, cell_row = plan.tile_columns == 2 ? cell / 2 : cell;
      const int down = slot_row - cell_row, across = slot_column - (cell - cell_row * plan.tile_columns);
      if (down < -reach || down > reach || across < -reach || across > reach) continue;
      sum += warps[w].sums[((down + 1) * 3 + across + 1) * Shared::kRows + d];
    }
    acc& total = out[slot * entries + d];
    total = round > 0 ? total + sum : sum;
  }
  __syncthreads();
}

// All entries of a patch: the sums over its pixels of weight [9] (1, x), relative to the candidates, which also adds to
// `total`. Without clusters (CellWarp::score): of the own centre.
template <int m, typename Shared, typename acc>
__device__ __forceinline__ void add_to_centers(CellWarp<acc, m>& warp, bool active, const Clusters<acc>* clusters,
                                               const Place& place, int round, const Shared* warps, acc* sums,
                                               acc* total = nullptr) {
  constexpr int kRows = Shared::kRows;
#pragma unroll 1
  for (int first = 0; first < warp.job.rows(); first += kRows) {
    if (active) {
      warp.revisit(clusters, first);
      if (clusters) {
        sum_products<kCandidates, m>(warp.own.x, warp.own.weight, warp.own.sums);
        __syncwarp();
        warp.make_relative(first, total);
      } else {
        sum_products<1, m>(warp.own.x, warp.own.weight + kOwnCell * kPatch, warp.own.sums + kOwnCell * kRows);
      }
    } else {
      for (int i = lane(); i < kCandidates * kRows; i += 32) warp.own.sums[i] = 0;
    }
    combine(warp.job.plan, place, !clusters, round, warps, first, warp.chunk(first), warp.job.rows(), sums);
  }
}

// body(place, entry, sum, first) for the centres of a tile, by a block.
template <typename acc, typename Body>
__device__ __forceinline__ void gather_tile(const Plan& plan, const Place& place, bool own, const acc* sums,
                                            int entries, const Body& body) {
  if (!place.inside) return;
  const int warp = int(threadIdx.x / 32) % plan.warps;
  gather_center(Contributions(plan, place, own), sums, entries, lane() + 32 * warp, 32 * plan.warps,
                [&](int r, acc sum, acc first) { body(place, r, sum, first); });
}

// body(place) of every tile and of this warp's cell in it.
template <typename Body>
__device__ __forceinline__ void for_each_tile(const Plan& plan, const Body& body) {
  for (int64_t b = blockIdx.y; b < plan.batch; b += gridDim.y)
    for (int tile = int(blockIdx.x); tile < int(plan.tiles()); tile += int(gridDim.x))
      body(Place(plan, b, tile, 0, int(threadIdx.x / 32)));
}

// Gathers the centres of those tiles around this one to which no block has anything left to add: the block that comes
// last for a tile completes it, in the same order whichever that is. With `means`, of its own tile alone. counters
// [B,tiles] are 0 before and after, and not used where a block has its tile for itself.
template <typename acc, typename Body>
__device__ __forceinline__ void complete_tiles(const Plan& plan, const Place& place, bool means, int32_t* counters,
                                               TileShared& shared, const acc* sums, int entries, const Body& body) {
  const auto around = [](int i, int end) { return int(i + 1 < end) + int(i > 0) + 1; };
  if (threadIdx.x < 32) {
    const int k = lane(), y = place.tile_row + k / 3 - 1, x = place.tile_column + k % 3 - 1;
    const bool there = k < kCandidates && (!means || k == kOwnCell) && y >= 0 && y < plan.tiles_down && x >= 0 &&
                       x < plan.tiles_across;
    bool last = there && means && plan.parts == 1;
    if (there && !last) {
      const int blocks = plan.parts * (means ? 1 : around(y, plan.tiles_down) * around(x, plan.tiles_across));
      int32_t* counter = counters + place.b * plan.tiles() + y * plan.tiles_across + x;
      __threadfence();  // after the barrier in `combine`: what the block has written comes before its count
      last = atomicAdd(counter, 1) == blocks - 1;
      if (last) *counter = 0;
      __threadfence();
    }
    const unsigned complete = __ballot_sync(kAllLanes, last);
    if (k == 0) shared.complete = complete;
  }
  __syncthreads();
#pragma unroll 1
  for (unsigned left = shared.complete; left; left &= left - 1) {
    const int k = __ffs(int(left)) - 1;
    const int tile = (place.tile_row + k / 3 - 1) * plan.tiles_across + place.tile_column + k % 3 - 1;
    gather_tile(plan, Place(plan, place.b, tile, 0, int(threadIdx.x / 32)), means, sums, entries, body);
  }
  __syncthreads();
}

}  // namespace dhvt
