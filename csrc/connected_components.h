// Connected components: union-find, and the rule by which a fragment picks the component that it joins.
#pragma once

#include <cstdint>
#include <limits>

#include "macros.h"

namespace dhvt {

// Rows per strip. Strips are labelled on their own and feature sums are taken strip by strip, so this number is part of
// the result's last bit: the reference has the same one.
constexpr int64_t kStripRows = 32;

// The root of i; roots have the lowest index of their set, so a root is the set's first member in raster order.
DHVT_HD int32_t find_root(int32_t* parent, int32_t i) {
  while (parent[i] != i) {
    parent[i] = parent[parent[i]];
    i = parent[i];
  }
  return i;
}

DHVT_HD void unite(int32_t* parent, int32_t a, int32_t b) {
  a = find_root(parent, a);
  b = find_root(parent, b);
  if (a < b) {
    parent[b] = a;
  } else {
    parent[a] = b;
  }
}

// A component that a fragment may join.
struct Candidate {
  double distance;
  int32_t size, index;
};

// Nearest mean, then the larger, then the first in raster order.
DHVT_HD bool is_better(const Candidate& a, const Candidate& b) {
  if (a.distance != b.distance) return a.distance < b.distance;
  if (a.size != b.size) return a.size > b.size;
  return a.index < b.index;
}

// |a - b|^2 in channel order, each operation rounded (compile without contraction); NaN counts as infinitely far.
// Mean: what gives a number for each channel.
template <typename Mean>
DHVT_HD double mean_distance(const Mean& a, const Mean& b, int64_t channels) {
  double sum = 0;
  for (int64_t c = 0; c < channels; ++c) {
    const double difference = a[c] - b[c];
    sum += difference * difference;
  }
  return sum == sum ? sum : std::numeric_limits<double>::infinity();
}

}  // namespace dhvt
