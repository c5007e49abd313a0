// One image's rounds of merging. A round works on its vertices in chunks, side by side; what a chunk makes is numbered
// after what the chunks before it make, so that the result does not depend on them.
//
// The picks of a component form a tree that hangs from the one edge whose both ends picked it, and away from that edge
// picks come ever later in the order of merging: at a vertex that was picked, what picks it is no better than its own
// pick. So a component's first merge is that of the two ends, and each later one adds a single vertex. Neither a
// union-find nor a search is needed: a component is a chain of merges, and two of its vertices meet in the later of the
// two merges that added them.
#pragma once

#include <utility>

#include "cpu/merge_graph.h"

namespace dhvt {
namespace {

// An edge that some vertex picked. The first of a component adds both its ends, each later one adds `single`.
template <typename T>
struct Pick {
  typename PickKey<T>::Bits distance;
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

// The rounds of an image of not more than so many vertices. Scratch is linear in vertices and edges.
template <typename T, typename Length>
class MergeRounds {
 public:
  explicit MergeRounds(const Tree<T>& tree)
      : component_(std::make_unique_for_overwrite<int32_t[]>(tree.leaves)),
        place_(std::make_unique_for_overwrite<int32_t[]>(tree.leaves)),
        rank_(std::make_unique_for_overwrite<int32_t[]>(tree.leaves)),
        tree_(tree),
        graph_(tree),
        next_(tree),
        next_node_(tree.leaves) {}

  RegionGraph<T, Length>& graph() { return graph_; }

  // From a graph whose vertices have picked to the next one, which replaces it.
  template <typename Graph>
  void merge(const Graph& graph) {
    ++round_;
    chunks_.resize((graph.size() + kChunk - 1) / kChunk);
    each_chunk([&](int64_t c) { order(graph, c); });
    int64_t components = 0, links = 0;
    for (Chunk& chunk : chunks_) {
      chunk.first_node = next_node_;
      chunk.first_component = components;
      chunk.first_link = links;
      next_node_ += static_cast<int64_t>(chunk.picks.size());
      components += static_cast<int64_t>(chunk.begin.size()) - 1;
      links += chunk.links;
    }
    next_.resize(components, links);
    each_chunk([&](int64_t c) {
      const int64_t last = std::min((c + 1) * kChunk, graph.size());
      for (int64_t u = c * kChunk; u < last; ++u)
        if (graph.neighbour(u) >= 0)
          component_[u] = static_cast<int32_t>(chunks_[component_[u] / kChunk].first_component + place_[component_[u]]);
    });
    torch::stable::parallel_for(0, static_cast<int64_t>(chunks_.size()), 1, [&](int64_t first, int64_t last) {
      std::vector<int64_t> marker(components, -1);
      for (int64_t c = first; c < last; ++c) contract(graph, chunks_[c], marker.data());
    });
    std::swap(graph_, next_);
  }

  // All rounds that are left. Returns the number of nodes.
  int64_t run() {
    while (graph_.size() > 1 && (tree_.max_rounds < 0 || round_ < tree_.max_rounds)) {
      graph_.pick();
      merge(graph_);
    }
    return next_node_;
  }

 private:
  static constexpr int64_t kChunk = 1 << 12;
  static constexpr size_t kAhead = 12;  // merges between asking for a mean and reading it

  // What some vertices merge as roots, each the lower end of a component's first edge.
  struct Chunk {
    std::vector<Pick<T>> picks;  // component after component, each in the order in which it merges
    std::vector<size_t> begin;   // of the components
    int64_t links;               // at most so many of the components in the next graph
    int64_t first_node, first_component, first_link;
  };

  template <typename Body>
  void each_chunk(const Body& body) const {
    parallel(static_cast<int64_t>(chunks_.size()), body);
  }

  template <typename Graph>
  void order(const Graph& graph, int64_t c) {
    Chunk& chunk = chunks_[c];
    auto& picks = chunk.picks;
    picks.clear();
    chunk.begin.clear();
    chunk.links = 0;
    const int64_t last = std::min((c + 1) * kChunk, graph.size());
    graph.each_root(c * kChunk, last, [&](int32_t u) {
      const int32_t v = graph.neighbour(u);
      const size_t begin = picks.size();
      place_[u] = static_cast<int32_t>(chunk.begin.size());
      chunk.begin.push_back(begin);
      const auto add = [&](typename PickKey<T>::Bits distance, int32_t low, int32_t high, int32_t single) {
        picks.push_back({distance, low, high, single});
        component_[single] = u;  // until the components have numbers
        chunk.links += graph.degree(single);
      };
      const auto add_pickers = [&](int32_t of) {
        graph.each_picker(of, [&](int32_t w) {
          if (w != graph.neighbour(of)) add(graph.distance(w), std::min(w, of), std::max(w, of), w);
        });
      };
      add(graph.distance(u), u, v, u);
      component_[v] = u;
      chunk.links += graph.degree(v);
      add_pickers(u);
      add_pickers(v);
      for (size_t p = begin + 1; p < picks.size(); ++p) add_pickers(picks[p].single);
      sort_component(picks, begin);
      rank_[v] = -1;
      for (size_t p = begin; p < picks.size(); ++p) rank_[picks[p].single] = static_cast<int32_t>(p - begin);
    });
    chunk.begin.push_back(picks.size());
  }

  // Makes a chunk's nodes, of which the last of each component is a vertex of the next graph, and their links. Parallel
  // ones become one: marker [components] tells where each component was met last.
  template <typename Graph>
  void contract(const Graph& graph, const Chunk& chunk, int64_t* marker) {
    Link<Length>* const links = next_.links.get();
    int64_t end = chunk.first_link;
    for (size_t i = 0; i + 1 < chunk.begin.size(); ++i) {
      const auto component = static_cast<int32_t>(chunk.first_component + static_cast<int64_t>(i));
      const int64_t begin = end;
      // Returns the length of the boundary to those of its component that came before it. No branch depends on what is
      // found; a neighbour inside leaves no trace.
      const auto add_links = [&](int32_t u) {
        int64_t internal = 0;
        graph.each_neighbour(u, [&](int32_t w, Length length) {
          const int32_t other = component_[w];
          const bool inside = other == component, is_new = marker[other] < begin;
          internal += inside && rank_[w] < rank_[u] ? length : 0;
          const int64_t at = is_new ? end : marker[other];
          const Length before = is_new ? 0 : links[at].length;
          links[at] = {other, before + length};
          marker[other] = inside ? -1 : at;
          end += is_new && !inside;
        });
        return internal;
      };
      const size_t first = chunk.begin[i], last = chunk.begin[i + 1];
      add_links(chunk.picks[first].high);
      int32_t joined = graph.node(chunk.picks[first].high);
      Region<T> region = graph.region(chunk.picks[first].high);
      for (size_t p = first; p < last; ++p) {
        const int32_t single = chunk.picks[p].single;
        const int64_t internal = add_links(single);
        const auto node = static_cast<int32_t>(chunk.first_node + static_cast<int64_t>(p));
        if (p + kAhead < chunk.picks.size()) graph.prefetch(chunk.picks[p + kAhead].single);
        tree_.join(node, graph.node(single), graph.region(single), joined, region, internal, round_);
        joined = node;
      }
      next_.nodes[component] = joined;
      next_.begin[component] = begin;
      next_.end[component] = end;
    }
  }

  // Of each vertex: its component (first that one's root), a root's component in its chunk, and the pick that adds it.
  std::unique_ptr<int32_t[]> component_, place_, rank_;
  const Tree<T>& tree_;
  RegionGraph<T, Length> graph_, next_;
  std::vector<Chunk> chunks_;
  int64_t next_node_;
  int32_t round_ = 0;
};

}  // namespace
}  // namespace dhvt
