// The midpoints of the lattice edges along every arc, moved to where the picture shows the edge: on both sides the two
// pixels next to it tell by their colour how much of them the other side covers. One task per arc.
#include <algorithm>
#include <cmath>

#include "cpu/arcs.h"

namespace dhvt {
namespace {

constexpr int kDepth = 2;            // pixels on each side whose colours are mixed
constexpr double kMostShift = 0.75;  // so that neighbours along an arc keep their order

struct Picture {
  const uint8_t* pixels;  // [C,H,W]
  const int32_t* labels;  // [H,W]
  const double* planes;   // [K,C,3]: colour = a + b y + c x
  const double* noise;    // [K]: squared error of the colours per pixel, all channels
  int64_t channels, height, width, segments;

  int32_t label(int64_t y, int64_t x) const {
    return y < 0 || y >= height || x < 0 || x >= width ? -1 : labels[y * width + x];
  }
};

// How far the edge between pixel (y, x) of segment `near` and the next one in direction (dy, dx), of segment `far`,
// lies in that direction.
double shift(const Picture& p, int32_t near, int32_t far, int64_t y, int64_t x, int dy, int dx) {
  if (near < 0 || far < 0 || near >= p.segments || far >= p.segments) return 0;
  const double at_y = y + 0.5 * dy, at_x = x + 0.5 * dx;
  // Pixels on the near side, from the edge on, and on the far one.
  int before = 1, after = 1;
  while (before < kDepth && p.label(y - before * dy, x - before * dx) == near) ++before;
  while (after < kDepth && p.label(y + (after + 1) * dy, x + (after + 1) * dx) == far) ++after;
  const double *near_plane = p.planes + near * p.channels * 3, *far_plane = p.planes + far * p.channels * 3;
  const uint8_t* pixel = p.pixels + y * p.width + x;
  const int64_t next = dy * p.width + dx;
  double contrast = 0, along[2 * kDepth] = {};  // the pixels' difference from the near colour, along that of the two
  for (int64_t c = 0; c < p.channels; ++c, near_plane += 3, far_plane += 3, pixel += p.height * p.width) {
    const double base = near_plane[0] + near_plane[1] * at_y + near_plane[2] * at_x;
    const double step = far_plane[0] + far_plane[1] * at_y + far_plane[2] * at_x - base;
    const double slope = near_plane[1] * dy + near_plane[2] * dx;
    const double growth = far_plane[1] * dy + far_plane[2] * dx - slope;
    contrast += step * step;
    for (int i = 1 - before; i <= after; ++i)
      along[i + kDepth - 1] += (pixel[i * next] - (base + (i - 0.5) * slope)) * (step + (i - 0.5) * growth);
  }
  if (contrast <= 0) return 0;
  // The share of each pixel that the far side covers, where its colour lies between those of the two.
  const auto share = [&](int i) { return std::clamp(along[i + kDepth - 1] / contrast, 0.0, 1.0); };
  double moved = 0;
  for (int i = 0; i < before; ++i) moved -= share(-i);
  for (int i = 1; i <= after; ++i) moved += 1 - share(i);
  return std::clamp(moved, -kMostShift, kMostShift) * contrast / (contrast + p.noise[near] + p.noise[far]);
}

std::tuple<Tensor, Tensor> edge_points(const Tensor& any_points, const Tensor& any_offsets, const Tensor& any_closed,
                                       const Tensor& any_image, const Tensor& any_labels, const Tensor& any_planes,
                                       const Tensor& any_noise) {
  check(any_points, "points [P,2]", ScalarType::Int, {-1, 2});
  check(any_offsets, "offsets [A+1]", ScalarType::Long, {-1});
  const int64_t arcs = any_offsets.size(0) - 1;
  STD_TORCH_CHECK(arcs >= 0, "offsets [A+1]: expected at least one");
  check(any_closed, "closed [A]", ScalarType::Bool, {arcs});
  check(any_labels, "labels [H,W]", ScalarType::Int, {-1, -1});
  check(any_image, "image [C,H,W]", ScalarType::Byte, {-1, any_labels.size(0), any_labels.size(1)});
  check(any_planes, "planes [K,C,3]", ScalarType::Double, {-1, any_image.size(0), 3});
  check(any_noise, "noise [K]", ScalarType::Double, {any_planes.size(0)});
  const Tensor points = dense(any_points), offsets = dense(any_offsets), closed = dense(any_closed);
  const Tensor image = dense(any_image), labels = dense(any_labels), planes = dense(any_planes);
  const Tensor noise = dense(any_noise);
  const Picture picture{data<uint8_t>(image), data<int32_t>(labels), data<double>(planes), data<double>(noise),
                        image.size(0),        image.size(1),         image.size(2),        planes.size(0)};
  const auto* point = data<int32_t>(points);
  const auto* offset = data<int64_t>(offsets);
  const auto* loop = data<bool>(closed);

  check_chains(offsets, points.size(0), [](int64_t) { return 2; });
  Tensor out_offsets = empty({arcs + 1}, ScalarType::Long, points);
  auto* begin = mutable_data<int64_t>(out_offsets);
  begin[0] = 0;
  for (int64_t a = 0; a < arcs; ++a) {
    int64_t edges = 0;
    for (int64_t i = offset[a]; i < offset[a + 1]; ++i) {
      const int64_t y = point[2 * i], x = point[2 * i + 1];
      STD_TORCH_CHECK(0 <= y && y <= labels.size(0) && 0 <= x && x <= labels.size(1),
                      "points [P,2]: expected corners of pixels of labels [H,W]");
      if (i == offset[a]) continue;
      const int64_t dy = std::abs(y - point[2 * i - 2]), dx = std::abs(x - point[2 * i - 1]);
      STD_TORCH_CHECK(dy == 0 || dx == 0, "points [P,2]: expected arcs along rows and columns");
      edges += dy + dx;
    }
    STD_TORCH_CHECK(edges > 0, "points [P,2]: expected arcs of some length");
    begin[a + 1] = begin[a] + edges + (loop[a] ? 1 : 2);
  }
  Tensor out = empty({begin[arcs], 2}, ScalarType::Double, points);
  auto* moved = mutable_data<double>(out);
  parallel_chains(begin, arcs, [&](int64_t a) {
    double* next = moved + 2 * begin[a];
    const int64_t first = offset[a], last = offset[a + 1] - 1;
    if (!loop[a]) {
      *next++ = point[2 * first];
      *next++ = point[2 * first + 1];
    }
    for (int64_t i = first; i < last; ++i) {
      int64_t y = point[2 * i], x = point[2 * i + 1];
      const int64_t end_y = point[2 * i + 2], end_x = point[2 * i + 3];
      const int dy = (end_y > y) - (end_y < y), dx = (end_x > x) - (end_x < x);
      // The pixels on the left and on the right of the edge that starts here.
      const int64_t left_y = (dy < 0 || dx > 0) ? -1 : 0, left_x = (dx < 0 || dy < 0) ? -1 : 0;
      const int right_dy = dx, right_dx = -dy;
      for (; y != end_y || x != end_x; y += dy, x += dx) {
        const int64_t near_y = y + left_y, near_x = x + left_x;
        const double by =
            shift(picture, picture.label(near_y, near_x), picture.label(near_y + right_dy, near_x + right_dx), near_y,
                  near_x, right_dy, right_dx);
        *next++ = y + 0.5 * dy + by * right_dy;
        *next++ = x + 0.5 * dx + by * right_dx;
      }
    }
    if (loop[a]) {
      next[0] = moved[2 * begin[a]];
      next[1] = moved[2 * begin[a] + 1];
    } else {
      next[0] = point[2 * last];
      next[1] = point[2 * last + 1];
    }
  });
  return {out, out_offsets};
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("edge_points", TORCH_BOX(&dhvt::edge_points)); }
