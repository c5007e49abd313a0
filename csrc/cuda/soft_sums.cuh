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
// and after other rounds'. With `means`, warps have sums for their own centre only, in the place of candidate 0. Thread
// by centre and entry; a few numbers per patch of 64 pixels: 4 (C + 3) of a centre for every cell where tiles have
// four.
template <bool means, typename Shared, typename acc>
__device__ __forceinline__ void combine(const Plan& plan, const Place& place, int round, const Shared* warps,
                                        int64_t first, int count, int64_t entries, acc* sums) {
  __syncthreads();
  acc* out = sums + (place.tile(plan) * plan.parts + place.part) * plan.halo() * entries + first;
  for (int i = int(threadIdx.x); i < plan.halo() * Shared::kRows; i += kSoftThreads) {
    const int slot = i / Shared::kRows, d = i % Shared::kRows;
    if (d >= count) continue;
    const int slot_row = slot / plan.halo_columns() - 1, slot_column = slot % plan.halo_columns() - 1;
    acc sum = 0;
    for (int w = 0; w < kWarps; ++w) {
      const int cell = w / plan.warps;
      const int down = slot_row - cell / plan.tile_columns, across = slot_column - cell % plan.tile_columns;
      const int reach = means ? 0 : 1;
      if (down < -reach || down > reach || across < -reach || across > reach) continue;
      sum += warps[w].sums[(means ? 0 : (down + 1) * 3 + across + 1) * Shared::kRows + d];
    }
    acc& total = out[slot * entries + d];
    total = round > 0 ? total + sum : sum;
  }
  __syncthreads();
}

// All entries of a patch: the sums over its pixels of weight [9] (1, x), relative to the candidates, which also adds to
// `total`.
template <typename scalar_t, int m, typename Shared, typename acc>
__device__ __forceinline__ void add_to_centers(CellWarp<scalar_t, m>& warp, bool active, const Clusters<acc>& clusters,
                                               const Place& place, int round, const Shared* warps, acc* sums,
                                               acc* total = nullptr) {
  constexpr int kRows = Shared::kRows;
  for (int64_t first = 0; first < warp.job.rows(); first += kRows) {
    if (active) {
      warp.revisit(clusters, first);
      sum_products<kCandidates, m>(warp.own.x, warp.own.weight, warp.own.sums);
      __syncwarp();
      warp.make_relative(first, total);
    } else {
      for (int i = lane(); i < kCandidates * kRows; i += 32) warp.own.sums[i] = 0;
    }
    combine<false>(warp.job.plan, place, round, warps, first, warp.chunk(first), warp.job.rows(), sums);
  }
}

// body(at, entry, sum, first) for the centres of a tile, by a block.
template <typename acc, typename Body>
__device__ __forceinline__ void gather_tile(const Plan& plan, const Place& place, bool own, const acc* sums,
                                            int64_t entries, const Body& body) {
  if (!place.inside) return;
  const int warp = int(threadIdx.x / 32) % plan.warps;
  gather_center(Contributions(plan, place.b, place.row, place.column, own), sums, entries, lane() + 32 * warp,
                32 * plan.warps, body);
}

// Gathers the centres of those tiles around this one to which no block has anything left to add: the block that comes
// last for a tile completes it, in the same order whichever that is. counters [B,tiles] are 0 before and after.
template <bool means, typename acc, typename Body>
__device__ __forceinline__ void complete_tiles(const Plan& plan, const Place& place, int32_t* counters,
                                               TileShared& shared, const acc* sums, int64_t entries, const Body& body) {
  const auto around = [](int64_t i, int64_t end) { return int(i + 1 < end) + int(i > 0) + 1; };
  if (threadIdx.x < 32) {
    const int k = lane();
    const int64_t y = place.tile_row + k / 3 - 1, x = place.tile_column + k % 3 - 1;
    bool last = false;
    if (k < kCandidates && (!means || k == kOwnCell) && y >= 0 && y < plan.tiles_down && x >= 0 &&
        x < plan.tiles_across) {
      const int blocks = plan.parts * (means ? 1 : around(y, plan.tiles_down) * around(x, plan.tiles_across));
      int32_t* counter = counters + (place.b * plan.tiles_down + y) * plan.tiles_across + x;
      __threadfence();  // after the barrier in `combine`: what the block has written comes before its count
      last = atomicAdd(counter, 1) == blocks - 1;
      if (last) *counter = 0;
      __threadfence();
    }
    const unsigned complete = __ballot_sync(kAllLanes, last);
    if (k == 0) shared.complete = complete;
  }
  __syncthreads();
  for (unsigned left = shared.complete; left; left &= left - 1) {
    const int k = __ffs(int(left)) - 1;
    const int64_t tile =
        (place.b * plan.tiles_down + place.tile_row + k / 3 - 1) * plan.tiles_across + place.tile_column + k % 3 - 1;
    gather_tile(plan, Place(plan, tile * plan.parts, int(threadIdx.x / 32)), means, sums, entries, body);
  }
  __syncthreads();
}

}  // namespace dhvt
