// The distance between two neighbouring regions, without torch. Its rounding decides which regions merge, so the order
// of the operations is part of the definition: the reference repeats it, and this header is compiled without
// contraction to fused multiply-adds.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "macros.h"

namespace dhvt {

enum class MergeDistance { kFeature, kWard, kWardLength, kWardRoot, kContrast };

// The moments of an image's regions, row after row. T and Int are const where they are only read.
template <typename T, typename Int>
struct Regions {
  Int* count;     // [N]
  T* mean;        // [N,C]
  T* m2;          // [N,C]
  T* centroid;    // [N,2]
  Int* box;       // [N,4]
  Int* boundary;  // [N]

  DHVT_HD Regions from(int64_t row, int64_t channels) const {
    return {count + row, mean + row * channels, m2 + row * channels, centroid + 2 * row, box + 4 * row, boundary + row};
  }
};

// What merge_tree does with one image. V = 2L-1 nodes, the leaves first.
template <typename T>
struct MergeTask {
  int64_t leaves, nodes, channels, num_edges, max_rounds;  // max_rounds < 0: to the root
  MergeDistance kind;
  T compactness, noise;
  Regions<const T, const int32_t> leaf;  // [L]
  const int32_t *edges, *lengths;        // [E,2], [E]
  int32_t *parent, *round;               // [V]
  Regions<T, int32_t> node;              // [V]

  // That of image b, of a task that points to the first.
  DHVT_HD MergeTask of_image(int64_t b) const {
    MergeTask task = *this;
    if (leaf.count != nullptr) task.leaf = leaf.from(b * leaves, channels);
    task.edges += 2 * b * num_edges;
    task.lengths += b * num_edges;
    task.parent += b * nodes;
    task.round += b * nodes;
    task.node = node.from(b * nodes, channels);
    return task;
  }

  DHVT_HD bool is_leaf(int32_t v) const { return v >= 0 && v < leaves && leaf.count[v] > 0; }

  // Whether edge e is one between two leaves.
  DHVT_HD bool is_edge(int64_t e) const {
    const int32_t u = edges[2 * e], v = edges[2 * e + 1];
    return u != v && lengths[e] > 0 && is_leaf(u) && is_leaf(v);
  }

  DHVT_HD T distance(int32_t a, int32_t b, int64_t length) const;
};

// What merge_tree_backward does with one image.
template <typename T>
struct MergeBackwardTask {
  int64_t leaves, nodes, channels;
  const T *grad_mean, *grad_m2;      // [V,C]
  const int32_t *parent, *count;     // [V]
  const T* mean;                     // [V,C]
  T *leaf_grad_mean, *leaf_grad_m2;  // [L,C]

  DHVT_HD MergeBackwardTask of_image(int64_t b) const {
    const int64_t v = b * nodes, i = b * leaves * channels;
    return {leaves,
            nodes,
            channels,
            grad_mean + v * channels,
            grad_m2 + v * channels,
            parent + v,
            count + v,
            mean + v * channels,
            leaf_grad_mean + i,
            leaf_grad_m2 + i};
  }

  // The parent as an index, -1 for none.
  DHVT_HD int64_t valid_parent(int64_t v) const {
    const int64_t p = parent[v];
    return p > v && p >= leaves && p < nodes ? p : -1;
  }
};

// Bits that are ordered as the numbers are, which are no NaN.
DHVT_HD uint32_t ordered_bits(float x) {
  const auto bits = std::bit_cast<uint32_t>(x + 0.0f);  // -0 is 0
  return bits >> 31 ? ~bits : bits | 1u << 31;
}
DHVT_HD unsigned long long ordered_bits(double x) {
  const auto bits = std::bit_cast<unsigned long long>(x + 0.0);
  return bits >> 63 ? ~bits : bits | 1ull << 63;
}

// Below so many pixels the size of regions hardly counts in a contrast, nor below such a length their boundary.
inline constexpr int kContrastCount = 200, kContrastLength = 80;

// 1 less the share of the square as long around as the bounding box that the union of two regions fills.
template <typename acc>
DHVT_HD acc merge_spread(acc n_u, acc n_v, const int32_t* box_u, const int32_t* box_v) {
  int64_t side[2];
  for (int d = 0; d < 2; ++d) {
    const int64_t low = box_u[d] < box_v[d] ? box_u[d] : box_v[d];
    const int64_t high = box_u[d + 2] > box_v[d + 2] ? box_u[d + 2] : box_v[d + 2];
    side[d] = high - low + 1;
  }
  const acc sides = acc(side[0] + side[1]);
  return 1 - 4 * (n_u + n_v) / (sides * sides);
}

// The squared difference of the means [C] of two regions; for contrast, of each channel relative to the variance within
// the regions, m2_* [C], and the noise.
template <typename acc>
DHVT_HD acc merge_square(MergeDistance kind, acc noise, int64_t channels, const acc* mean_u, const acc* mean_v,
                         const acc* m2_u, const acc* m2_v, acc n_u, acc n_v) {
  acc square = 0;
  if (kind == MergeDistance::kContrast) {
    for (int64_t c = 0; c < channels; ++c) {
      const acc delta = mean_u[c] - mean_v[c];
      square += delta * delta / ((m2_u[c] + m2_v[c]) / (n_u + n_v) + noise);
    }
  } else {
    for (int64_t c = 0; c < channels; ++c) {
      const acc delta = mean_u[c] - mean_v[c];
      square += delta * delta;
    }
  }
  return square;
}

// The distance of two regions with this merge_square. box_* [4] (ymin, xmin, ymax, xmax), n_* whole numbers, length of
// the common boundary. NaN counts as infinity, so that a region of NaN merges after all others of its round.
template <typename acc>
DHVT_HD acc merge_distance_of_square(MergeDistance kind, acc compactness, acc distance, acc n_u, acc n_v,
                                     const int32_t* box_u, const int32_t* box_v, acc length) {
  const bool contrast = kind == MergeDistance::kContrast;
  const acc spread = contrast || compactness > 0 ? merge_spread(n_u, n_v, box_u, box_v) : acc(0);
  if (contrast)
    distance = (kContrastCount + n_u * n_v / (n_u + n_v)) / (kContrastLength + length) * (distance + spread);
  else if (kind != MergeDistance::kFeature)
    distance = n_u * n_v / (n_u + n_v) * distance;
  if (kind == MergeDistance::kWardLength) distance = distance / length;
  if (kind == MergeDistance::kWardRoot) distance = distance / std::sqrt(length);
  if (compactness > 0) distance += compactness * spread;
  return distance == distance ? distance : std::numeric_limits<acc>::infinity();
}

template <typename T>
DHVT_HD T MergeTask<T>::distance(int32_t a, int32_t b, int64_t length) const {
  const T n_a = T(node.count[a]), n_b = T(node.count[b]);
  const T square = merge_square<T>(kind, noise, channels, node.mean + a * channels, node.mean + b * channels,
                                   node.m2 + a * channels, node.m2 + b * channels, n_a, n_b);
  return merge_distance_of_square<T>(kind, compactness, square, n_a, n_b, node.box + int64_t(4) * a,
                                     node.box + int64_t(4) * b, T(length));
}

// One coordinate of the centroid of two regions.
template <typename acc>
DHVT_HD acc merge_centroid(acc n_a, acc a, acc n_b, acc b) {
  return a + (b - a) * (n_b / (n_a + n_b));
}

// The gradient of one child's mean, for one channel: d mean / d mean_a = n_a / n and
// d m2 / d mean_a = 2 n_a n_b / n (mean_a - mean_b), where b is the other child. No gradient gives none, even to NaN.
template <typename acc>
DHVT_HD acc merge_gradient(acc grad_mean, acc grad_m2, acc n_a, acc mean_a, acc n_b, acc mean_b) {
  const acc share = n_a / (n_a + n_b);
  return share * grad_mean + (grad_m2 != 0 ? 2 * share * n_b * (mean_a - mean_b) * grad_m2 : acc(0));
}

}  // namespace dhvt
