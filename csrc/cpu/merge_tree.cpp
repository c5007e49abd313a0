// Best-neighbour merging of a region graph into a binary tree, and the way of the gradients down that tree.
#include <algorithm>
#include <type_traits>
#include <utility>

#include "merge_tree_host.h"
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

  void start() const {
    const auto& [leaf, node, channels] = std::tie(this->leaf, this->node, this->channels);
    for (int64_t v = 0; v < this->nodes; ++v) {
      clear(v);
      if (v >= this->leaves || leaf.count[v] <= 0) continue;
      this->round[v] = 0;
      node.count[v] = leaf.count[v];
      node.boundary[v] = leaf.boundary[v];
      std::copy_n(leaf.mean + v * channels, channels, node.mean + v * channels);
      std::copy_n(leaf.m2 + v * channels, channels, node.m2 + v * channels);
      std::copy_n(leaf.centroid + 2 * v, 2, node.centroid + 2 * v);
      std::copy_n(leaf.box + 4 * v, 4, node.box + 4 * v);
    }
  }

  // The moments of the union of a and b; `internal` is the length of the boundary between them.
  void join(int64_t v, int64_t a, int64_t b, int64_t internal) const {
    const auto& [count, mean, m2, centroid, box, boundary] = this->node;
    const int64_t channels = this->channels;
    const T n_a = T(count[a]), n_b = T(count[b]);
    for (int64_t c = 0; c < channels; ++c) {
      T mean_c = mean[a * channels + c], m2_c = m2[a * channels + c];
      chan_merge(n_a, mean_c, m2_c, n_b, mean[b * channels + c], m2[b * channels + c]);
      mean[v * channels + c] = mean_c;
      m2[v * channels + c] = m2_c;
    }
    for (int d = 0; d < 2; ++d) {
      centroid[2 * v + d] = merge_centroid(n_a, centroid[2 * a + d], n_b, centroid[2 * b + d]);
      box[4 * v + d] = std::min(box[4 * a + d], box[4 * b + d]);
      box[4 * v + 2 + d] = std::max(box[4 * a + 2 + d], box[4 * b + 2 + d]);
    }
    count[v] = static_cast<int32_t>(int64_t(count[a]) + count[b]);
    boundary[v] = static_cast<int32_t>(int64_t(boundary[a]) + boundary[b] - 2 * internal);
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
  const auto key = [](const Pick<T>& pick) { return ordered_bits(static_cast<float>(pick.distance)); };
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
  explicit Merger(const MergeTask<T>& task) : tree_(task) {}

  void run() {
    tree_.start();
    const int64_t leaves = tree_.leaves;
    next_node_ = static_cast<int32_t>(leaves);
    slot_.assign(leaves, -1);
    for (int64_t i = 0; i < leaves; ++i) {
      if (tree_.round[i] < 0) continue;
      slot_[i] = static_cast<int32_t>(vertices_.size());
      vertices_.push_back(static_cast<int32_t>(i));
    }
    raw_.reserve(tree_.num_edges);
    for (int64_t e = 0; e < tree_.num_edges; ++e)
      if (tree_.is_edge(e)) raw_.push_back({tree_.edges[2 * e], tree_.edges[2 * e + 1], tree_.lengths[e]});
    contract();
    for (int64_t round = 1; !edges_.empty() && (tree_.max_rounds < 0 || round <= tree_.max_rounds); ++round) {
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
      const T distance = tree_.distance(vertices_[u], vertices_[v], length);
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

// One task per image: the merges of an image depend on each other. Per leaf and round, a round reads the means of both
// ends of each edge and halves the graph at least.
MergedTree merge_tree(const Tensor& count, const Tensor& mean, const Tensor& m2, const Tensor& centroid,
                      const Tensor& box, const Tensor& boundary, const Tensor& edges, const Tensor& lengths,
                      std::string distance, double compactness, int64_t depth) {
  return merge_tree_checked(
      count, mean, m2, centroid, box, boundary, edges, lengths, distance, compactness, depth,
      [](const auto& task, int64_t batch) { parallel(batch, [&](int64_t b) { Merger(task.of_image(b)).run(); }); });
}

// One task per image, from the root down: grad_* [V,C] of a node are complete before its children read them. A node
// that has not exactly two children passes nothing on.
template <typename T>
void merge_backward_image(const MergeBackwardTask<T>& task) {
  const int64_t nodes = task.nodes, channels = task.channels, size = nodes * channels;
  std::vector<T> total_mean(task.grad_mean, task.grad_mean + size), total_m2(task.grad_m2, task.grad_m2 + size);
  std::vector<int32_t> children(nodes, 0);
  std::vector<int64_t> child_sum(nodes, 0);  // so that sum - v is the sibling of v
  for (int64_t v = 0; v < nodes; ++v) {
    const int64_t p = task.valid_parent(v);
    if (p < 0) continue;
    ++children[p];
    child_sum[p] += v;
  }
  for (int64_t v = nodes - 1; v >= 0; --v) {
    const int64_t p = task.valid_parent(v);
    if (p < 0 || children[p] != 2) continue;
    const int64_t other = child_sum[p] - v;
    const T n = T(task.count[v]), n_other = T(task.count[other]);
    for (int64_t c = 0; c < channels; ++c) {
      const T g = total_m2[p * channels + c];
      total_m2[v * channels + c] += g;
      total_mean[v * channels + c] += merge_gradient(total_mean[p * channels + c], g, n, task.mean[v * channels + c],
                                                     n_other, task.mean[other * channels + c]);
    }
  }
  for (int64_t i = 0; i < task.leaves * channels; ++i) {
    const bool used = task.count[i / channels] > 0;  // the moments of an unused leaf are zero, whatever came in
    task.leaf_grad_mean[i] = used ? total_mean[i] : T(0);
    task.leaf_grad_m2[i] = used ? total_m2[i] : T(0);
  }
}

std::tuple<Tensor, Tensor> merge_tree_backward(const Tensor& grad_mean, const Tensor& grad_m2, const Tensor& parent,
                                               const Tensor& node_count, const Tensor& node_mean) {
  return merge_tree_backward_checked(grad_mean, grad_m2, parent, node_count, node_mean,
                                     [](const auto& task, int64_t batch) {
                                       parallel(batch, [&](int64_t b) { merge_backward_image(task.of_image(b)); });
                                     });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("merge_tree", TORCH_BOX(&dhvt::merge_tree));
  m.impl("merge_tree_backward", TORCH_BOX(&dhvt::merge_tree_backward));
}
