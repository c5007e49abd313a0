// Means up a tree, weighted by size times similarity, and their gradients; without torch.
#pragma once

#include <cmath>
#include <cstdint>

#include "macros.h"

namespace dhvt {

// What both directions read of one image's tree. V = 2L-1 nodes, the leaves first.
struct PoolTree {
  int64_t leaves, nodes, channels;
  const int32_t *count, *parent, *round;  // [V]

  DHVT_HD PoolTree of_image(int64_t b) const {
    const int64_t v = b * nodes;
    return {leaves, nodes, channels, count + v, parent + v, round + v};
  }

  // The parent as an index, -1 for none. Unused nodes (round < 0) have no family, so that any numbers form a forest.
  DHVT_HD int64_t valid_parent(int64_t v) const {
    const int64_t p = parent[v];
    return p > v && p >= leaves && p < nodes && round[v] >= 0 && round[p] >= 0 ? p : -1;
  }

  // Whether v was there before the round that merged it into p: such a node's weight starts with its size.
  DHVT_HD bool starts(int64_t v, int64_t p) const { return v < leaves || round[v] < round[p]; }

  DHVT_HD double size(int64_t v) const { return count[v] > 1 ? count[v] : 1; }
};

// size * exp(exponent), which does not underflow. size >= 1: that of the part with the greatest exponent is not scaled.
struct PoolWeight {
  double size, exponent;
};

// What similarity_pool does with one image.
template <typename T>
struct PoolTask {
  PoolTree tree;
  const T* leaf;       // [L,C]
  T *feature, *share;  // [V,C], [V]

  DHVT_HD PoolTask of_image(int64_t b) const {
    return {tree.of_image(b), leaf + b * tree.leaves * tree.channels, feature + b * tree.nodes * tree.channels,
            share + b * tree.nodes};
  }

  // Everything of a leaf, and of an inner node without two children, but for the share in the parent.
  DHVT_HD void start(int64_t v, PoolWeight* weight) const {
    share[v] = T(0);
    const bool used = v < tree.leaves && tree.round[v] >= 0;
    for (int64_t c = 0; c < tree.channels; ++c)
      feature[v * tree.channels + c] = used ? leaf[v * tree.channels + c] : T(0);
    if (v >= tree.leaves) weight[v - tree.leaves] = {1, 0};
  }

  // The features of p from those of its children a < b, and their shares in it; weight [I] of the inner nodes.
  DHVT_HD void join(int64_t p, int64_t a, int64_t b, PoolWeight* weight) const {
    const T* const of_a = feature + a * tree.channels;
    const T* const of_b = feature + b * tree.channels;
    double distance = 0;
    for (int64_t c = 0; c < tree.channels; ++c) {
      const double delta = double(of_b[c]) - double(of_a[c]);
      distance += delta * delta;
    }
    const PoolWeight of_region_a{tree.size(a), -distance}, of_region_b{tree.size(b), -distance};
    const PoolWeight x = tree.starts(a, p) ? of_region_a : weight[a - tree.leaves];
    const PoolWeight y = tree.starts(b, p) ? of_region_b : weight[b - tree.leaves];
    const bool less = x.exponent < y.exponent;
    const double e = x.exponent == y.exponent ? 1 : std::exp(less ? x.exponent - y.exponent : y.exponent - x.exponent);
    const double size_a = less ? x.size * e : x.size, size_b = less ? y.size : y.size * e;
    const double part = size_b / (size_a + size_b);
    weight[p - tree.leaves] = {size_a + size_b, less ? y.exponent : x.exponent};
    share[a] = T(1 - part);
    share[b] = T(part);
    for (int64_t c = 0; c < tree.channels; ++c)
      feature[p * tree.channels + c] = of_a[c] + (of_b[c] - of_a[c]) * T(part);
  }
};

// What similarity_pool_backward does with one image.
template <typename T>
struct PoolBackwardTask {
  PoolTree tree;
  const T *grad, *feature, *share;  // [V,C], [V,C], [V]
  T* leaf_grad;                     // [L,C]

  DHVT_HD PoolBackwardTask of_image(int64_t b) const {
    const int64_t i = b * tree.nodes * tree.channels;
    return {tree.of_image(b), grad + i, feature + i, share + b * tree.nodes,
            leaf_grad + b * tree.leaves * tree.channels};
  }

  // The gradient of node v is summed up here; `inner` [I,C] holds that of the inner nodes.
  DHVT_HD T* total(int64_t v, T* inner) const {
    return v < tree.leaves ? leaf_grad + v * tree.channels : inner + (v - tree.leaves) * tree.channels;
  }

  DHVT_HD void start(int64_t v, T* inner, double* weight_grad) const {
    const bool used = v >= tree.leaves || tree.round[v] >= 0;
    for (int64_t c = 0; c < tree.channels; ++c) total(v, inner)[c] = used ? grad[v * tree.channels + c] : T(0);
    if (v >= tree.leaves) weight_grad[v - tree.leaves] = 0;
  }

  // Adds to the gradients of the children a < b of p what p, whose own is complete, passes on. weight_grad [I] is the
  // gradient to the logarithm of the weight. A node without gradient passes none on, even where there is NaN.
  DHVT_HD void split(int64_t p, int64_t a, int64_t b, T* inner, double* weight_grad) const {
    const T* const of_a = feature + a * tree.channels;
    const T* const of_b = feature + b * tree.channels;
    const T* const of_p = total(p, inner);
    const double of_weight = weight_grad[p - tree.leaves];
    double dot = 0;
    bool any = of_weight != 0;
    for (int64_t c = 0; c < tree.channels; ++c) {
      any |= of_p[c] != 0;
      dot += double(of_p[c]) * (double(of_b[c]) - double(of_a[c]));
    }
    if (!any) return;
    const double part_a = share[a], part_b = share[b], turn = part_a * part_b * dot;
    const double to_a = part_a * of_weight - turn, to_b = part_b * of_weight + turn;
    const bool starts_a = tree.starts(a, p), starts_b = tree.starts(b, p);
    if (!starts_a) weight_grad[a - tree.leaves] = to_a;
    if (!starts_b) weight_grad[b - tree.leaves] = to_b;
    const double pull = starts_a && starts_b ? of_weight : (starts_a ? to_a : 0) + (starts_b ? to_b : 0);
    T* const sum_a = total(a, inner);
    T* const sum_b = total(b, inner);
    for (int64_t c = 0; c < tree.channels; ++c) {
      const double along = 2 * pull * (double(of_b[c]) - double(of_a[c]));
      sum_a[c] += T(part_a * of_p[c] + along);
      sum_b[c] += T(part_b * of_p[c] - along);
    }
  }
};

}  // namespace dhvt
