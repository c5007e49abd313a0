// What an image's rounds of merging work on: its tree, and the graph of the regions that have not been merged yet.
#pragma once

#include <algorithm>
#include <memory>
#include <type_traits>
#include <vector>

#include "common.h"
#include "merge_tree.h"
#include "segment_moments.h"

namespace dhvt {
namespace {

// A vertex's choice among its neighbours: the nearest, and of several the one of least number; as one number to
// compare, so that no branch depends on it. Offers are no NaN.
template <typename T>
class PickKey {
 public:
  using Bits = decltype(ordered_bits(T()));

  void offer(T distance, int32_t neighbour) {
    const Key key = Key(ordered_bits(distance)) << 32 | uint32_t(neighbour);
    key_ = key < key_ ? key : key_;
  }
  int32_t neighbour() const { return static_cast<int32_t>(key_); }  // -1 for none
  Bits distance() const { return static_cast<Bits>(key_ >> 32); }

 private:
  using Key = std::conditional_t<sizeof(Bits) == 4, uint64_t, unsigned __int128>;
  Key key_ = ~Key(0);
};

// Where one region's moments are read.
template <typename T>
struct Region {
  int32_t count, boundary;
  const T *mean, *m2;  // [C]
  T centroid[2];
  int32_t box[4];
};

// One image's tree.
template <typename T>
struct Tree : MergeTask<T> {
  explicit Tree(const MergeTask<T>& task) : MergeTask<T>(task) {}

  void clear(int64_t v) const {
    const auto& node = this->node;
    const int64_t channels = this->channels;
    this->parent[v] = this->round[v] = -1;
    node.count[v] = node.boundary[v] = 0;
    std::fill_n(node.mean + v * channels, channels, T(0));
    std::fill_n(node.m2 + v * channels, channels, T(0));
    node.centroid[2 * v] = node.centroid[2 * v + 1] = T(0);
    const int32_t empty[4] = {0, 0, -1, -1};
    std::copy_n(empty, 4, node.box + 4 * v);
  }

  // The leaves as nodes.
  void copy_leaves() const {
    const auto& leaf = this->leaf;
    const auto& node = this->node;
    const int64_t channels = this->channels;
    for (int64_t v = 0; v < this->leaves; ++v) {
      clear(v);
      if (leaf.count[v] <= 0) continue;
      this->round[v] = 0;
      node.count[v] = leaf.count[v];
      node.boundary[v] = leaf.boundary[v];
      std::copy_n(leaf.mean + v * channels, channels, node.mean + v * channels);
      std::copy_n(leaf.m2 + v * channels, channels, node.m2 + v * channels);
      std::copy_n(leaf.centroid + 2 * v, 2, node.centroid + 2 * v);
      std::copy_n(leaf.box + 4 * v, 4, node.box + 4 * v);
    }
  }

  Region<T> region(int64_t v) const {
    const auto& [count, mean, m2, centroid, box, boundary] = this->node;
    return {count[v],
            boundary[v],
            mean + v * this->channels,
            m2 + v * this->channels,
            {centroid[2 * v], centroid[2 * v + 1]},
            {box[4 * v], box[4 * v + 1], box[4 * v + 2], box[4 * v + 3]}};
  }

  // Makes v the union of the nodes a and b, `internal` the length of the boundary between them; of_b becomes that of v,
  // as what has just been written is slow to read.
  DHVT_HD void join(int64_t v, int64_t a, const Region<T>& of_a, int64_t b, Region<T>& of_b, int64_t internal,
                    int32_t round_number) const {
    const auto& [count, mean, m2, centroid, box, boundary] = this->node;
    const int64_t channels = this->channels;
    const T n_a = T(of_a.count), n_b = T(of_b.count);
    T* __restrict__ mean_v = mean + v * channels, * __restrict__ m2_v = m2 + v * channels;
    for (int64_t c = 0; c < channels; ++c) {
      T mean_c = of_a.mean[c], m2_c = of_a.m2[c];
      chan_merge(n_a, mean_c, m2_c, n_b, of_b.mean[c], of_b.m2[c]);
      mean_v[c] = mean_c;
      m2_v[c] = m2_c;
    }
    of_b.mean = mean_v, of_b.m2 = m2_v;
    for (int d = 0; d < 2; ++d) {
      centroid[2 * v + d] = of_b.centroid[d] = merge_centroid(n_a, of_a.centroid[d], n_b, of_b.centroid[d]);
      box[4 * v + d] = of_b.box[d] = std::min(of_a.box[d], of_b.box[d]);
      box[4 * v + 2 + d] = of_b.box[2 + d] = std::max(of_a.box[2 + d], of_b.box[2 + d]);
    }
    count[v] = of_b.count = static_cast<int32_t>(int64_t(of_a.count) + of_b.count);
    boundary[v] = of_b.boundary = static_cast<int32_t>(int64_t(of_a.boundary) + of_b.boundary - 2 * internal);
    this->parent[a] = this->parent[b] = static_cast<int32_t>(v);
    this->parent[v] = -1;
    this->round[v] = round_number;
  }
};

// A neighbour, and the length of the boundary to it.
template <typename Length>
struct Link {
  int32_t to;
  Length length;
};

// Regions of one or more leaves, each with its links: every edge lies at both its ends.
template <typename T, typename Length>
struct RegionGraph {
  using Links = std::unique_ptr<Link<Length>[]>;

  const Tree<T>* tree;
  std::vector<int32_t> nodes;       // of the tree, one per vertex
  std::vector<int64_t> begin, end;  // a vertex's links
  Links links;
  int64_t capacity = 0;  // for links
  std::vector<PickKey<T>> picks;

  explicit RegionGraph(const Tree<T>& tree) : tree(&tree) {}

  // For new contents.
  void resize(int64_t vertices, int64_t max_links) {
    nodes.resize(vertices);
    begin.resize(vertices);
    end.resize(vertices);
    if (max_links <= capacity) return;
    links = std::make_unique_for_overwrite<Link<Length>[]>(max_links);
    capacity = max_links;
  }

  // Every vertex picks its best neighbour.
  void pick() {
    picks.resize(nodes.size());
    parallel(
        size(),
        [&](int64_t u) {
          PickKey<T> best;
          for (int64_t i = begin[u]; i < end[u]; ++i)
            best.offer(tree->distance(nodes[u], nodes[links[i].to], links[i].length), links[i].to);
          picks[u] = best;
        },
        kPickGrain);
  }

  int64_t size() const { return static_cast<int64_t>(nodes.size()); }
  int64_t degree(int64_t u) const { return end[u] - begin[u]; }
  int32_t node(int64_t u) const { return nodes[u]; }
  Region<T> region(int64_t u) const { return tree->region(nodes[u]); }
  void prefetch(int64_t u) const {
    const int64_t v = nodes[u];
    __builtin_prefetch(tree->node.mean + v * tree->channels);
    __builtin_prefetch(tree->node.m2 + v * tree->channels);
    __builtin_prefetch(tree->node.box + 4 * v);
    __builtin_prefetch(tree->node.centroid + 2 * v);
  }
  int32_t neighbour(int64_t u) const { return picks[u].neighbour(); }
  auto distance(int64_t u) const { return picks[u].distance(); }

  // body(lower one of two vertices in [first, last) that picked each other)
  template <typename Body>
  void each_root(int64_t first, int64_t last, const Body& body) const {
    for (int64_t u = first; u < last; ++u)
      if (neighbour(u) > u && neighbour(neighbour(u)) == u) body(static_cast<int32_t>(u));
  }
  // body(neighbour, length)
  template <typename Body>
  void each_neighbour(int64_t u, const Body& body) const {
    for (int64_t i = begin[u]; i < end[u]; ++i) body(links[i].to, links[i].length);
  }
  // body(vertex that picked u)
  template <typename Body>
  void each_picker(int64_t u, const Body& body) const {
    for (int64_t i = begin[u]; i < end[u]; ++i)
      if (neighbour(links[i].to) == u) body(links[i].to);
  }

 private:
  static constexpr int64_t kPickGrain = 1024;  // vertices per task: some 50 us
};

}  // namespace
}  // namespace dhvt
