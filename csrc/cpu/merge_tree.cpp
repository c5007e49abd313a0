// Best-neighbour merging of a region graph into a binary tree, and the way of the gradients down that tree.
#include "../merge_tree.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>
#include <utility>

#include "../segment_moments.h"
#include "common.h"

namespace dhvt {
namespace {

// One image's tree. V = 2L-1 nodes, the leaves first.
template <typename T>
struct Tree {
  int64_t leaves, channels;
  int32_t *parent, *round, *count;  // [V]
  T *mean, *m2;                     // [V,C]
  T* centroid;                      // [V,2]
  int32_t* box;                     // [V,4]
  int32_t* boundary;                // [V]

  void clear(int64_t node) {
    parent[node] = round[node] = -1;
    count[node] = boundary[node] = 0;
    std::fill_n(mean + node * channels, channels, T(0));
    std::fill_n(m2 + node * channels, channels, T(0));
    centroid[2 * node] = centroid[2 * node + 1] = T(0);
    const int32_t empty[4] = {0, 0, -1, -1};
    std::copy_n(empty, 4, box + 4 * node);
  }

  // The moments of the union of a and b; `internal` is the length of the boundary between them.
  void join(int64_t node, int64_t a, int64_t b, int64_t internal) {
    const T n_a = T(count[a]), n_b = T(count[b]);
    const auto merge = [&](T* to, T* to_m2, const T* from, const T* from_m2, int64_t size) {
      for (int64_t c = 0; c < size; ++c) {
        T mean_c = from[a * size + c], m2_c = from_m2[a * size + c];
        chan_merge(n_a, mean_c, m2_c, n_b, from[b * size + c], from_m2[b * size + c]);
        to[node * size + c] = mean_c;
        to_m2[node * size + c] = m2_c;
      }
    };
    merge(mean, m2, mean, m2, channels);
    const T share = n_b / (n_a + n_b);
    for (int d = 0; d < 2; ++d) {
      const T delta = centroid[2 * b + d] - centroid[2 * a + d];
      centroid[2 * node + d] = centroid[2 * a + d] + delta * share;
      box[4 * node + d] = std::min(box[4 * a + d], box[4 * b + d]);
      box[4 * node + 2 + d] = std::max(box[4 * a + 2 + d], box[4 * b + 2 + d]);
    }
    count[node] = static_cast<int32_t>(int64_t(count[a]) + count[b]);
    boundary[node] = static_cast<int32_t>(int64_t(boundary[a]) + boundary[b] - 2 * internal);
  }
};

// An edge of the current round's graph: u < v index its vertices, `length` sums the leaf edges between them.
struct Edge {
  int32_t u, v;
  int64_t length;
};

// An edge that some vertex picked.
template <typename T>
struct Pick {
  T distance;
  int32_t u, v;

  bool operator<(const Pick& other) const {
    if (distance != other.distance) return distance < other.distance;
    return u != other.u ? u < other.u : v < other.v;
  }
};

// Sorts picks [n]. Floats go by their bits, three digits of eleven; picks of one distance are few, or all of them.
template <typename T>
void sort_picks(std::vector<Pick<T>>& picks, std::vector<Pick<T>>& other) {
  constexpr size_t kFew = 96;
  if (!std::is_same_v<T, float> || picks.size() < kFew) return std::sort(picks.begin(), picks.end());
  constexpr int kBits = 11, kDigits = 3, kSize = 1 << kBits;
  const auto key = [](const Pick<T>& pick) {
    const auto bits = std::bit_cast<uint32_t>(static_cast<float>(pick.distance) + 0.0f);  // -0 is 0
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  };
  std::vector<uint32_t> begin(kDigits * kSize, 0);
  for (const Pick<T>& pick : picks)
    for (int d = 0; d < kDigits; ++d) ++begin[d * kSize + (key(pick) >> d * kBits) % kSize];
  other.resize(picks.size());
  for (int d = 0; d < kDigits; ++d) {
    uint32_t* place = begin.data() + d * kSize;
    for (uint32_t i = 0, sum = 0; i < kSize; ++i) sum += std::exchange(place[i], sum);
    for (const Pick<T>& pick : picks) other[place[(key(pick) >> d * kBits) % kSize]++] = pick;
    picks.swap(other);
  }
  for (size_t i = 0, end; i < picks.size(); i = end) {
    for (end = i + 1; end < picks.size() && picks[end].distance == picks[i].distance;) ++end;
    if (end - i > 1) std::sort(picks.begin() + i, picks.begin() + end);
  }
}

// Union by size without path compression. The link from a root to another is stamped with the tree node of that merge,
// so stamps rise along every path, and the merge that connected two vertices is the greatest stamp between them:
// O(log n) to find, where the binary tree itself may be a path of n nodes.
struct Forest {
  std::vector<int32_t> link, stamp, size, node;

  void reset(const std::vector<int32_t>& vertices) {
    node = vertices;
    const size_t n = vertices.size();
    link.resize(n);
    for (size_t i = 0; i < n; ++i) link[i] = static_cast<int32_t>(i);
    stamp.assign(n, std::numeric_limits<int32_t>::max());
    size.assign(n, 1);
  }

  int32_t find(int32_t x) const {
    while (link[x] != x) x = link[x];
    return x;
  }

  // Joins the sets of two roots; `merged` is their node in the tree.
  void unite(int32_t a, int32_t b, int32_t merged) {
    if (size[a] < size[b]) std::swap(a, b);
    link[b] = a;
    stamp[b] = merged;
    size[a] += size[b];
    node[a] = merged;
  }

  // The node that connected u and v, which are different vertices of one set.
  int32_t connection(int32_t u, int32_t v) const {
    int32_t last = -1;
    while (u != v) {
      int32_t& low = stamp[u] < stamp[v] ? u : v;
      last = stamp[low];
      low = link[low];
    }
    return last;
  }
};

// Merges one image. Its scratch is linear in leaves and edges.
template <typename T>
class Merger {
 public:
  Merger(const Tree<T>& tree, MergeDistance kind, T compactness)
      : tree_(tree), kind_(kind), compactness_(compactness) {}

  // edges [E,2] and lengths [E] between leaves; max_rounds < 0 merges to the root.
  void run(const int32_t* edges, const int32_t* lengths, int64_t num_edges, int64_t max_rounds) {
    const int64_t leaves = tree_.leaves;
    next_node_ = static_cast<int32_t>(leaves);
    slot_.assign(leaves, -1);
    for (int64_t i = 0; i < leaves; ++i) {
      if (tree_.round[i] < 0) continue;
      slot_[i] = static_cast<int32_t>(vertices_.size());
      vertices_.push_back(static_cast<int32_t>(i));
    }
    raw_.reserve(num_edges);
    for (int64_t e = 0; e < num_edges; ++e) {
      const int32_t u = edges[2 * e], v = edges[2 * e + 1];
      if (u < 0 || v < 0 || u >= leaves || v >= leaves || lengths[e] <= 0) continue;
      raw_.push_back({u, v, lengths[e]});
    }
    contract();
    for (int64_t round = 1; !edges_.empty() && (max_rounds < 0 || round <= max_rounds); ++round) {
      pick();
      merge(static_cast<int32_t>(round));
    }
  }

 private:
  // raw_ relabelled by slot_, without inner edges, parallel ones summed. Linear: a counting sort by the lower end, then
  // one marker per vertex.
  void contract() {
    const size_t n = vertices_.size();
    begin_.assign(n + 1, 0);
    size_t kept = 0;
    for (const Edge& edge : raw_) {
      int32_t u = slot_[edge.u], v = slot_[edge.v];
      if (u < 0 || v < 0 || u == v) continue;
      if (u > v) std::swap(u, v);
      raw_[kept++] = {u, v, edge.length};
      ++begin_[u + 1];
    }
    for (size_t u = 0; u < n; ++u) begin_[u + 1] += begin_[u];
    sorted_.resize(kept);
    for (size_t e = 0; e < kept; ++e) sorted_[begin_[raw_[e].u]++] = raw_[e];
    marker_.assign(n, -1);
    edges_.clear();
    int64_t first = 0;  // the first edge of the current u
    for (size_t e = 0; e < kept; ++e) {
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

  // Every vertex picks its best neighbour; picks_ are the picked edges in the order in which they merge.
  void pick() {
    const size_t n = vertices_.size();
    best_.assign(n, {T(0), -1, -1});
    const auto offer = [&](int32_t u, int32_t v, int32_t e, T distance) {
      Best& best = best_[u];
      if (best.edge < 0 || distance < best.distance || (distance == best.distance && v < best.neighbour))
        best = {distance, v, e};
    };
    for (size_t e = 0; e < edges_.size(); ++e) {
      const auto [u, v, length] = edges_[e];
      const int64_t a = vertices_[u], b = vertices_[v];
      const T distance = merge_distance<T>(kind_, compactness_, tree_.channels, tree_.mean + a * tree_.channels,
                                           tree_.mean + b * tree_.channels, T(tree_.count[a]), T(tree_.count[b]),
                                           tree_.box + 4 * a, tree_.box + 4 * b, T(length));
      offer(u, v, static_cast<int32_t>(e), distance);
      offer(v, u, static_cast<int32_t>(e), distance);
    }
    picks_.clear();
    for (size_t i = 0; i < n; ++i) {
      const auto [distance, other, edge] = best_[i];
      const int32_t u = static_cast<int32_t>(i);
      if (edge < 0 || (best_[other].edge == edge && other < u)) continue;
      picks_.push_back({distance, std::min(u, other), std::max(u, other)});
    }
    sort_picks(picks_, sorted_picks_);
  }

  // Merges the picked edges, then contracts the graph.
  void merge(int32_t round) {
    const int32_t first = next_node_;
    forest_.reset(vertices_);
    children_.clear();
    for (const auto& pick : picks_) {
      const int32_t u = forest_.find(pick.u), v = forest_.find(pick.v);
      const auto [a, b] = std::minmax({forest_.node[u], forest_.node[v]});
      tree_.parent[a] = tree_.parent[b] = next_node_;
      children_.push_back({a, b});
      forest_.unite(u, v, next_node_++);
    }
    root_.resize(vertices_.size());
    for (size_t i = 0; i < vertices_.size(); ++i) root_[i] = forest_.find(static_cast<int32_t>(i));
    // Inner edges end here; the others are the next round's.
    internal_.assign(children_.size(), 0);
    raw_.clear();
    for (const Edge& edge : edges_) {
      if (root_[edge.u] == root_[edge.v])
        internal_[forest_.connection(edge.u, edge.v) - first] += edge.length;
      else
        raw_.push_back(edge);
    }
    for (int32_t node = first; node < next_node_; ++node) {
      tree_.round[node] = round;
      tree_.join(node, children_[node - first].first, children_[node - first].second, internal_[node - first]);
    }
    // No vertex with an edge declined, so the next round's vertices are among the new nodes.
    next_slot_.assign(children_.size(), -1);
    const size_t n = vertices_.size();
    vertices_.clear();
    for (int32_t node = first; node < next_node_; ++node) {
      if (tree_.parent[node] >= 0) continue;
      next_slot_[node - first] = static_cast<int32_t>(vertices_.size());
      vertices_.push_back(node);
    }
    slot_.resize(n);
    for (size_t i = 0; i < n; ++i) {
      const int32_t node = forest_.node[root_[i]];
      slot_[i] = node >= first ? next_slot_[node - first] : -1;
    }
    contract();
  }

  struct Best {
    T distance;
    int32_t neighbour, edge;
  };

  Tree<T> tree_;
  MergeDistance kind_;
  T compactness_;
  int32_t next_node_ = 0;
  Forest forest_;
  std::vector<int32_t> vertices_, root_;   // node of each vertex; root of its set in forest_
  std::vector<int32_t> slot_, next_slot_;  // vertex of each old vertex, of each new node
  std::vector<Edge> raw_, sorted_, edges_;
  std::vector<int64_t> begin_, marker_, internal_;
  std::vector<Best> best_;
  std::vector<Pick<T>> picks_, sorted_picks_;
  std::vector<std::pair<int32_t, int32_t>> children_;
};

using Moments = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// One task per image: the merges of an image depend on each other. Per leaf and round, a round reads the means of both
// ends of each edge and halves the graph at least.
Moments merge_tree(const Tensor& count, const Tensor& mean, const Tensor& m2, const Tensor& centroid, const Tensor& box,
                   const Tensor& boundary, const Tensor& edges, const Tensor& lengths, std::string distance,
                   double compactness, int64_t depth) {
  check(count, "count [B,L]", ScalarType::Int, {-1, -1});
  const ScalarType type = mean.scalar_type();
  const int64_t batch = count.size(0), leaves = count.size(1), nodes = std::max<int64_t>(2 * leaves - 1, 0);
  check(mean, "mean [B,L,C]", type, {batch, leaves, -1});
  const int64_t channels = mean.size(2);
  check(m2, "m2 [B,L,C]", type, {batch, leaves, channels});
  check(centroid, "centroid [B,L,2]", type, {batch, leaves, 2});
  check(box, "box [B,L,4]", ScalarType::Int, {batch, leaves, 4});
  check(boundary, "boundary [B,L]", ScalarType::Int, {batch, leaves});
  check(edges, "edges [B,E,2]", ScalarType::Int, {batch, -1, 2});
  const int64_t num_edges = edges.size(1);
  check(lengths, "lengths [B,E]", ScalarType::Int, {batch, num_edges});
  STD_TORCH_CHECK(nodes <= std::numeric_limits<int32_t>::max() && num_edges <= std::numeric_limits<int32_t>::max(),
                  "merge_tree: node and edge numbers must fit int32");
  STD_TORCH_CHECK(distance == "feature" || distance == "ward" || distance == "ward_length",
                  "merge_tree: unknown distance ", distance);
  const MergeDistance kind = distance == "feature" ? MergeDistance::kFeature
                             : distance == "ward"  ? MergeDistance::kWard
                                                   : MergeDistance::kWardLength;
  const Tensor count_ = dense(count), mean_ = dense(mean), m2_ = dense(m2), centroid_ = dense(centroid),
               box_ = dense(box), boundary_ = dense(boundary), edges_ = dense(edges), lengths_ = dense(lengths);
  Moments out = {empty({batch, nodes}, ScalarType::Int, count),    empty({batch, nodes}, ScalarType::Int, count),
                 empty({batch, nodes}, ScalarType::Int, count),    empty({batch, nodes, channels}, type, count),
                 empty({batch, nodes, channels}, type, count),     empty({batch, nodes, 2}, type, count),
                 empty({batch, nodes, 4}, ScalarType::Int, count), empty({batch, nodes}, ScalarType::Int, count)};
  dispatch_accumulation(type, "merge_tree", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto [out_parent, out_round, out_count, out_mean, out_m2, out_centroid, out_box, out_boundary] = out;
    const auto* n = data<int32_t>(count_);
    Tree<T> all{leaves,
                channels,
                mutable_data<int32_t>(out_parent),
                mutable_data<int32_t>(out_round),
                mutable_data<int32_t>(out_count),
                mutable_data<T>(out_mean),
                mutable_data<T>(out_m2),
                mutable_data<T>(out_centroid),
                mutable_data<int32_t>(out_box),
                mutable_data<int32_t>(out_boundary)};
    parallel(batch, [&](int64_t b) {
      const int64_t o = b * nodes;
      Tree<T> tree{leaves,
                   channels,
                   all.parent + o,
                   all.round + o,
                   all.count + o,
                   all.mean + o * channels,
                   all.m2 + o * channels,
                   all.centroid + 2 * o,
                   all.box + 4 * o,
                   all.boundary + o};
      for (int64_t node = 0; node < nodes; ++node) {
        const int64_t leaf = b * leaves + node;
        tree.clear(node);
        if (node >= leaves || n[leaf] <= 0) continue;
        tree.round[node] = 0;
        tree.count[node] = n[leaf];
        tree.boundary[node] = data<int32_t>(boundary_)[leaf];
        std::copy_n(data<T>(mean_) + leaf * channels, channels, tree.mean + node * channels);
        std::copy_n(data<T>(m2_) + leaf * channels, channels, tree.m2 + node * channels);
        std::copy_n(data<T>(centroid_) + 2 * leaf, 2, tree.centroid + 2 * node);
        std::copy_n(data<int32_t>(box_) + 4 * leaf, 4, tree.box + 4 * node);
      }
      Merger<T>(tree, kind, static_cast<T>(compactness))
          .run(data<int32_t>(edges_) + b * num_edges * 2, data<int32_t>(lengths_) + b * num_edges, num_edges,
               depth > 0 ? depth - 1 : -1);
    });
  });
  return out;
}

// One task per image, from the root down: grad_* [V,C] of a node are complete before its children read them. A node
// that has not exactly two children passes nothing on.
template <typename T>
void merge_tree_backward_image(int64_t leaves, int64_t nodes, int64_t channels, const T* grad_mean, const T* grad_m2,
                               const int32_t* parent, const int32_t* count, const T* mean, T* leaf_mean, T* leaf_m2) {
  std::vector<T> total_mean(grad_mean, grad_mean + nodes * channels), total_m2(grad_m2, grad_m2 + nodes * channels);
  const auto valid = [&](int64_t p, int64_t v) { return p > v && p >= leaves && p < nodes; };
  std::vector<int32_t> children(nodes, 0);
  std::vector<int64_t> child_sum(nodes, 0);  // so that sum - v is the sibling of v
  for (int64_t v = 0; v < nodes; ++v) {
    if (!valid(parent[v], v)) continue;
    ++children[parent[v]];
    child_sum[parent[v]] += v;
  }
  for (int64_t v = nodes - 1; v >= 0; --v) {
    const int64_t p = parent[v];
    if (!valid(p, v) || children[p] != 2) continue;
    const int64_t other = child_sum[p] - v;
    const T n = T(count[v]), n_other = T(count[other]);
    for (int64_t c = 0; c < channels; ++c) {
      const T g = total_m2[p * channels + c];
      total_m2[v * channels + c] += g;
      total_mean[v * channels + c] += merge_gradient(total_mean[p * channels + c], g, n, mean[v * channels + c],
                                                     n_other, mean[other * channels + c]);
    }
  }
  for (int64_t i = 0; i < leaves * channels; ++i) {
    const bool used = count[i / channels] > 0;  // the moments of an unused leaf are zero, whatever came in
    leaf_mean[i] = used ? total_mean[i] : T(0);
    leaf_m2[i] = used ? total_m2[i] : T(0);
  }
}

std::tuple<Tensor, Tensor> merge_tree_backward(const Tensor& grad_mean, const Tensor& grad_m2, const Tensor& parent,
                                               const Tensor& node_count, const Tensor& node_mean) {
  check(parent, "parent [B,V]", ScalarType::Int, {-1, -1});
  const ScalarType type = node_mean.scalar_type();
  const int64_t batch = parent.size(0), nodes = parent.size(1), leaves = (nodes + 1) / 2;
  check(node_mean, "node_mean [B,V,C]", type, {batch, nodes, -1});
  const int64_t channels = node_mean.size(2);
  check(node_count, "node_count [B,V]", ScalarType::Int, {batch, nodes});
  check(grad_mean, "grad_mean [B,V,C]", type, {batch, nodes, channels});
  check(grad_m2, "grad_m2 [B,V,C]", type, {batch, nodes, channels});
  const Tensor gm = dense(grad_mean), gq = dense(grad_m2), p = dense(parent), n = dense(node_count),
               m = dense(node_mean);
  Tensor leaf_mean = empty({batch, leaves, channels}, type, parent);
  Tensor leaf_m2 = empty({batch, leaves, channels}, type, parent);
  dispatch_accumulation(type, "merge_tree_backward", [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel(batch, [&](int64_t b) {
      const int64_t o = b * nodes * channels, l = b * leaves * channels;
      merge_tree_backward_image<T>(leaves, nodes, channels, data<T>(gm) + o, data<T>(gq) + o,
                                   data<int32_t>(p) + b * nodes, data<int32_t>(n) + b * nodes, data<T>(m) + o,
                                   mutable_data<T>(leaf_mean) + l, mutable_data<T>(leaf_m2) + l);
    });
  });
  return {leaf_mean, leaf_m2};
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("merge_tree", TORCH_BOX(&dhvt::merge_tree));
  m.impl("merge_tree_backward", TORCH_BOX(&dhvt::merge_tree_backward));
}
