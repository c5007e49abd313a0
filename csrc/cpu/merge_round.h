// One image's rounds of merging, by one thread.
//
// The picks of a component form a tree that hangs from the one edge whose both ends picked it, and away from that edge
// picks come ever later in the order of merging: at a vertex that was picked, what picks it is no better than its own
// pick. So a component's first merge is that of the two ends, and each later one adds a single vertex. Neither a
// union-find nor a search is needed: a component is a chain of merges, and two of its vertices meet in the later of the
// two merges that added them.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "merge_tree.h"
#include "segment_moments.h"

namespace dhvt {
namespace {

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

  // Makes v the union of a < b; `internal` is the length of the boundary between them.
  void join(int64_t v, int64_t a, int64_t b, int64_t internal, int32_t round_number) const {
    const auto& [count, mean, m2, centroid, box, boundary] = this->node;
    const int64_t channels = this->channels;
    const T n_a = T(count[a]), n_b = T(count[b]);
    const T *mean_a = mean + a * channels, *mean_b = mean + b * channels;
    const T *m2_a = m2 + a * channels, *m2_b = m2 + b * channels;
    T* __restrict__ mean_v = mean + v * channels, * __restrict__ m2_v = m2 + v * channels;
    for (int64_t c = 0; c < channels; ++c) {
      T mean_c = mean_a[c], m2_c = m2_a[c];
      chan_merge(n_a, mean_c, m2_c, n_b, mean_b[c], m2_b[c]);
      mean_v[c] = mean_c;
      m2_v[c] = m2_c;
    }
    for (int d = 0; d < 2; ++d) {
      centroid[2 * v + d] = merge_centroid(n_a, centroid[2 * a + d], n_b, centroid[2 * b + d]);
      box[4 * v + d] = std::min(box[4 * a + d], box[4 * b + d]);
      box[4 * v + 2 + d] = std::max(box[4 * a + 2 + d], box[4 * b + 2 + d]);
    }
    count[v] = static_cast<int32_t>(int64_t(count[a]) + count[b]);
    boundary[v] = static_cast<int32_t>(int64_t(boundary[a]) + boundary[b] - 2 * internal);
    this->parent[a] = this->parent[b] = static_cast<int32_t>(v);
    this->parent[v] = -1;
    this->round[v] = round_number;
  }
};

// An edge that some vertex picked. The first of a component adds both its ends, each later one adds `single`.
template <typename T>
struct Pick {
  T distance;
  int32_t low, high, single;

  bool operator<(const Pick& other) const {
    if (distance != other.distance) return distance < other.distance;
    return low != other.low ? low < other.low : high < other.high;
  }
};

// Sorts the picks of a component from `begin` on, of which the first is in its place. Most components are small.
template <typename T>
void sort_component(std::vector<Pick<T>>& picks, size_t begin) {
  const auto first = picks.begin() + begin + 1;
  if (picks.end() - first > 16) return std::sort(first, picks.end());
  for (auto i = first; i < picks.end(); ++i) {
    const Pick<T> pick = *i;
    auto place = i;
    for (; place > first && pick < place[-1]; --place) *place = place[-1];
    *place = pick;
  }
}

// An edge of a round's graph: u < v index its vertices, `length` sums the leaf edges between them.
struct Edge {
  int32_t u, v;
  int64_t length;
};

// The rounds from a graph on. Scratch is linear in vertices and edges.
template <typename T>
class MergeRounds {
 public:
  explicit MergeRounds(const Tree<T>& tree) : tree_(tree) {}

  std::vector<int32_t> vertices;  // their nodes, in order
  std::vector<Edge> raw;          // parallel ones may occur, and either end may come first

  // From this graph to the last round; new nodes are numbered from `next_node` on. Returns the number of nodes.
  int64_t run(int64_t next_node, int64_t rounds_before) {
    next_node_ = next_node;
    sum_parallel_edges();
    for (int64_t round = rounds_before + 1; !edges_.empty() && (tree_.max_rounds < 0 || round <= tree_.max_rounds);
         ++round) {
      pick();
      order();
      merge(static_cast<int32_t>(round));
      sum_parallel_edges();
    }
    return next_node_;
  }

 private:
  // Linear: a counting sort by the lower end, then one marker per vertex.
  void sum_parallel_edges() {
    const size_t n = vertices.size();
    begin_.assign(n + 1, 0);
    for (Edge& edge : raw) {
      if (edge.u > edge.v) std::swap(edge.u, edge.v);
      ++begin_[edge.u + 1];
    }
    for (size_t u = 0; u < n; ++u) begin_[u + 1] += begin_[u];
    sorted_.resize(raw.size());
    for (const Edge& edge : raw) sorted_[begin_[edge.u]++] = edge;
    marker_.assign(n, -1);
    edges_.clear();
    int64_t first = 0;  // the first edge of the current u
    for (size_t e = 0; e < sorted_.size(); ++e) {
      const Edge& edge = sorted_[e];
      if (e > 0 && edge.u != sorted_[e - 1].u) first = static_cast<int64_t>(edges_.size());
      if (marker_[edge.v] >= first) {
        edges_[marker_[edge.v]].length += edge.length;
      } else {
        marker_[edge.v] = static_cast<int64_t>(edges_.size());
        edges_.push_back(edge);
      }
    }
  }

  // Every vertex picks its best neighbour.
  void pick() {
    best_.assign(vertices.size(), {T(0), -1});
    const auto offer = [&](int32_t u, int32_t v, T distance) {
      Best& best = best_[u];
      if (best.neighbour < 0 || distance < best.distance || (distance == best.distance && v < best.neighbour))
        best = {distance, v};
    };
    for (const auto& [u, v, length] : edges_) {
      const T distance = tree_.distance(vertices[u], vertices[v], length);
      offer(u, v, distance);
      offer(v, u, distance);
    }
  }

  // picks_: component after component, each in the order in which it merges.
  void order() {
    const int32_t n = static_cast<int32_t>(vertices.size());
    picked_by_.assign(n, -1);
    next_picker_.resize(n);
    const auto is_mutual = [&](int32_t u) { return best_[best_[u].neighbour].neighbour == u; };
    for (int32_t u = n - 1; u >= 0; --u) {
      if (best_[u].neighbour < 0 || is_mutual(u)) continue;
      next_picker_[u] = std::exchange(picked_by_[best_[u].neighbour], u);
    }
    picks_.clear();
    component_begin_.clear();
    component_.assign(n, -1);
    added_.resize(n);
    for (int32_t u = 0; u < n; ++u) {
      const auto [distance, v] = best_[u];
      if (v < u || !is_mutual(u)) continue;
      const size_t begin = picks_.size();
      const auto component = static_cast<int32_t>(component_begin_.size());
      component_begin_.push_back(begin);
      picks_.push_back({distance, u, v, u});
      component_[u] = component_[v] = component;
      const auto add_pickers = [&](int32_t of) {
        for (int32_t w = picked_by_[of]; w >= 0; w = next_picker_[w]) {
          picks_.push_back({best_[w].distance, std::min(w, of), std::max(w, of), w});
          component_[w] = component;
        }
      };
      add_pickers(u);
      add_pickers(v);
      for (size_t p = begin + 1; p < picks_.size(); ++p) add_pickers(picks_[p].single);
      sort_component(picks_, begin);
      added_[v] = static_cast<int32_t>(begin);
      for (size_t p = begin; p < picks_.size(); ++p) added_[picks_[p].single] = static_cast<int32_t>(p);
    }
    component_begin_.push_back(picks_.size());
  }

  // Makes the nodes of the picks. The last of each component is a vertex of the next graph.
  void merge(int32_t round) {
    internal_.assign(picks_.size(), 0);
    raw.clear();
    for (const Edge& edge : edges_) {
      const int32_t u = component_[edge.u], v = component_[edge.v];
      if (u == v)
        internal_[std::max(added_[edge.u], added_[edge.v])] += edge.length;
      else
        raw.push_back({u, v, edge.length});
    }
    const size_t components = component_begin_.size() - 1;
    next_vertices_.resize(components);
    for (size_t i = 0; i < components; ++i) {
      int64_t joined = vertices[picks_[component_begin_[i]].high];
      for (size_t p = component_begin_[i]; p < component_begin_[i + 1]; ++p) {
        const int64_t node = next_node_ + static_cast<int64_t>(p);
        tree_.join(node, vertices[picks_[p].single], joined, internal_[p], round);
        joined = node;
      }
      next_vertices_[i] = static_cast<int32_t>(joined);
    }
    next_node_ += static_cast<int64_t>(picks_.size());
    vertices.swap(next_vertices_);
  }

  struct Best {
    T distance;
    int32_t neighbour;
  };

  Tree<T> tree_;
  int64_t next_node_ = 0;
  std::vector<Edge> sorted_, edges_;
  std::vector<int64_t> begin_, marker_, internal_;
  std::vector<Best> best_;
  std::vector<int32_t> picked_by_, next_picker_;  // what picks a vertex, as lists
  std::vector<int32_t> component_, added_;        // of each vertex: its component, the pick that adds it
  std::vector<Pick<T>> picks_;
  std::vector<size_t> component_begin_;
  std::vector<int32_t> next_vertices_;
};

}  // namespace
}  // namespace dhvt
