// The sum over segments, used by segment_pool and mean_inject.
#pragma once

#include "cpu/levels/segment_pool_kernels.h"
#include "cpu/tiles.h"

namespace dhvt {

// One task per tile: finds its runs, then of_tile(index, tile, runs, scratch, values) fills values [slots][width]. The
// scratch has kPoolScratch bytes per slot.
template <typename acc, typename OfTile>
std::vector<TileResult<acc>> reduce_tiles(const TilePlan& plan, const int32_t* label, int64_t num_segments,
                                          int64_t width, const OfTile& of_tile) {
  const auto runs_of_tile = DHVT_AT_LEVEL(find_runs);
  std::vector<TileResult<acc>> results(plan.count());
  torch::stable::parallel_for(0, plan.count(), 1, [&](int64_t first, int64_t last) {
    RunScratch scratch(plan, num_segments);
    AlignedScratch lanes;
    for (int64_t i = first; i < last; ++i) {
      const Tile tile = plan.tile(i);
      TileRuns found = scratch.next_tile();
      runs_of_tile(label_map(plan, label, tile.image, num_segments), tile, found);
      results[i].reset(found, width);
      of_tile(i, tile, found, lanes.get(found.num_slots * kPoolScratch), results[i].values.get());
    }
  });
  return results;
}

// One task per tile sums its runs into a table of its own; a second pass adds the tables in the order of the tiles.
// Reads b C + 4 bytes per pixel once, in whichever layout they lie. features [B,C,H,W], label [B,H,W],
// weight [B,H,W] or null -> sums [B,K,C], mass [B,K], both zero on entry.
template <typename scalar_t>
void sum_over_segments(const ImageView<const scalar_t>& view, const int32_t* label, const acc_t<scalar_t>* weight,
                       int64_t num_segments, acc_t<scalar_t>* sums, acc_t<scalar_t>* mass) {
  using acc = acc_t<scalar_t>;
  const int64_t channels = view.channels;
  const TilePlan plan = plan_tiles(view.batch, view.height, view.width);
  const auto of_tile = DHVT_AT_LEVEL(sums_of_tile<scalar_t>);
  const auto partial = reduce_tiles<acc>(  // [tiles][slots][C + 1]
      plan, label, num_segments, channels + 1,
      [&](int64_t, const Tile& tile, const TileRuns& found, char* scratch, acc* values) {
        std::fill_n(values, found.num_slots * (channels + 1), acc(0));
        of_tile(view, tile, found, weight ? weight + tile.image * plan.height * plan.width : nullptr, scratch, values);
      });
  combine(
      plan, partial, num_segments,
      [&](int64_t segment, int64_t tile, int64_t slot) {
        const acc* part = partial[tile].values.get() + slot * (channels + 1);
        acc* out = sums + segment * channels;
        for (int64_t c = 0; c < channels; ++c) out[c] += part[c];
        mass[segment] += part[channels];
      },
      [](int64_t, int64_t) {});
}

}  // namespace dhvt
