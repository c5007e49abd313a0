// Boxes resampled to patches: what is compiled per level.
#pragma once

#include "cpu/level.h"
#include "image.h"
#include "token_patches.h"

namespace dhvt {

// The samples of a box along one axis: the two pixels of each, clamped to the image, and the share of the second. [P]
template <typename acc>
struct Axis {
  int64_t *low, *high;
  acc* share;
};

template <typename acc>
DHVT_HD void set_axis(const Axis<acc>& axis, int32_t first, int32_t last, int64_t size, int64_t limit) {
  AxisWalk walk = axis_walk(first, last, size);
  for (int64_t i = 0; i < size; ++i, walk.advance()) {
    axis.low[i] = clamp_index(walk.position, limit);
    axis.high[i] = clamp_index(walk.position + (walk.remainder > 0), limit);
    axis.share[i] = acc(walk.remainder);
  }
  for (int64_t i = 0; i < size; ++i) axis.share[i] /= acc(walk.denominator);  // at once, which vectorizes
}

// Scratch for one box; arrays of P, rows of P rounded up to kPatchPadding.
constexpr int64_t kPatchPadding = 16;
template <typename acc>
struct PatchScratch {
  Axis<acc> y, x;
  int64_t *low, *high;  // memory offsets of x
  acc* rows;            // [4] rows
};

DHVT_PER_LEVEL(
    // The patch [C,P,P] and the mask [P,P] of box k of image b; label [H,W] is of that image.
    template <typename scalar_t>
    void patch_of_box(const ImageView<const scalar_t>& image, const int32_t* label, const int32_t* box, int64_t b,
                      int64_t k, int64_t size, const PatchScratch<acc_t<scalar_t>>& scratch, scalar_t* patch,
                      scalar_t* mask);
    // Adds the gradient [P,P] of one channel of a box to the rows [top, bottom) of its plane [H,W]; plane points to row
    // `top`. y and x are the box's axes.
    template <typename scalar_t>
    void add_patch_gradient(const scalar_t* grad, const Axis<acc_t<scalar_t>>& y, const Axis<acc_t<scalar_t>>& x,
                            int64_t size, int64_t top, int64_t bottom, int64_t width, acc_t<scalar_t>* scratch,
                            acc_t<scalar_t>* plane);)

}  // namespace dhvt
