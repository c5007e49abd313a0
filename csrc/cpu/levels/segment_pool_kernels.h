// Pooling over segments and its transposes: what is compiled per level.
#pragma once

#include "cpu/level.h"
#include "cpu/tile.h"
#include "image.h"

namespace dhvt {

// Scratch per slot and four channels, whatever the level, of sums and of maxima; it starts on a multiple of 64 bytes.
constexpr int64_t kPoolScratch = 512;

// `weight` is [H,W] of the tile's image, or null; `value` and `shift` are [K,C] of it.
DHVT_PER_LEVEL(
    // out [slots][C + 1], zero on entry: the sum of every channel, then the mass.
    template <typename scalar_t>
    void sums_of_tile(const ImageView<const scalar_t>& view, const Tile& tile, const TileRuns& found,
                      const acc_t<scalar_t>* weight, char* scratch, acc_t<scalar_t>* out);
    // best [slots][C] and the pixels y W + x that hold them.
    template <typename scalar_t>
    void maxima_of_tile(const ImageView<const scalar_t>& view, const Tile& tile, const TileRuns& found, char* scratch,
                        acc_t<scalar_t>* best, int32_t* where);
    // out = weight * value of the pixel's segment, 0 where there is none.
    template <typename scalar_t> void gather_tile(const scalar_t* value, const LabelMap& labels, const Tile& tile,
                                                  const acc_t<scalar_t>* weight, const ImageView<scalar_t>& out);
    // out [H,W] = the inner product of the pixel with its segment's values, 0 where there is none.
    template <typename scalar_t> void dot_tile(const acc_t<scalar_t>* value, const ImageView<const scalar_t>& view,
                                               const LabelMap& labels, const Tile& tile, acc_t<scalar_t>* out);
    // out = image + shift of the pixel's segment, a copy where there is none.
    template <typename scalar_t>
    void shift_tile(const ImageView<const scalar_t>& image, const acc_t<scalar_t>* shift, const LabelMap& labels,
                    const Tile& tile, const ImageView<scalar_t>& out);)

}  // namespace dhvt
