// Where two leaves of a tree come into one segment, without torch.
#pragma once

#include <cstdint>
#include <limits>

#include "macros.h"

namespace dhvt {

// Of leaves that never come into one segment.
constexpr float kNeverJoined = std::numeric_limits<float>::max();

// From which strength on the leaves a and b are in one segment: `lower` [V] of their lowest common ancestor. up(v) is
// the parent of v or another node above it, -1 for none: of two different nodes the one with the lower number is no
// ancestor of the other, so it goes up. Negative numbers and NaN count as 0.
template <typename Up>
DHVT_HD float joining_strength(int32_t a, int32_t b, const float* lower, const Up& up) {
  while (a != b) {
    int32_t& least = a < b ? a : b;
    least = up(least);
    if (least < 0) return kNeverJoined;
  }
  const float strength = lower[a];
  return !(strength > 0) ? 0.0f : strength < kNeverJoined ? strength : kNeverJoined;
}

// Of a pixel: the greater strength of its pairs with the pixels to the right and below. label [H,W]
template <typename Up>
DHVT_HD float pixel_saliency(const int32_t* label, int64_t height, int64_t width, int64_t y, int64_t x, int64_t leaves,
                             const float* lower, const Up& up) {
  const int32_t here = label[y * width + x];
  if (here < 0 || here >= leaves) return 0;
  float most = 0;
  const auto pair = [&](int32_t there) {
    if (there == here || there < 0 || there >= leaves) return;
    const float strength = joining_strength(here, there, lower, up);
    if (strength > most) most = strength;
  };
  if (x + 1 < width) pair(label[y * width + x + 1]);
  if (y + 1 < height) pair(label[(y + 1) * width + x]);
  return most;
}

}  // namespace dhvt
