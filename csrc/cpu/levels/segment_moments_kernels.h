// Moments of segments: what is compiled per level.
#pragma once

#include "cpu/level.h"
#include "cpu/tile.h"
#include "image.h"

namespace dhvt {

// Scratch of moments_of_tile per slot and four channels, whatever the level; it starts on a multiple of 64 bytes.
constexpr int64_t kMomentsScratch = 640;

DHVT_PER_LEVEL(
    // Mean and m2 of every slot of a tile: out [slots][2][C]. count(slot) is the segment's pixels in the tile.
    template <typename scalar_t>
    void moments_of_tile(const ImageView<const scalar_t>& view, const Tile& tile, const TileRuns& found,
                         const int32_t* counts, char* scratch, acc_t<scalar_t>* out);
    // Joins one more part [2][C] of `own` pixels to mean [C] and m2 [C] of `before` pixels.
    template <typename acc>
    void join_moments(int64_t channels, acc before, acc own, const acc* part, acc* mean, acc* m2);
    // The gradient of the features of a tile. grad_mean, grad_m2, mean [K,C] and count [K] are those of the tile's
    // image; scratch [C].
    template <typename scalar_t>
    void moments_backward_of_tile(const ImageView<const scalar_t>& view, const LabelMap& labels, const Tile& tile,
                                  const acc_t<scalar_t>* grad_mean, const acc_t<scalar_t>* grad_m2,
                                  const int32_t* count, const acc_t<scalar_t>* mean, acc_t<scalar_t>* scratch,
                                  const ImageView<scalar_t>& out);)

}  // namespace dhvt
