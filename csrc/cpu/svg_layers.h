// Which segment is painted over which: again and again the one whose other boundaries are shortest goes on top of the
// neighbour with which it shares most.
#pragma once

#include <algorithm>
#include <cstdint>
#include <queue>
#include <utility>
#include <vector>

#include "common.h"

namespace dhvt {

// Neighbours up to which a segment's priority is kept exact; with more, it may be an old one.
constexpr size_t kSmall = 64;

// Arc a gives two darts, 2 a along it and 2 a + 1 back.
class Map {
 public:
  Map(const Tensor& left, const Tensor& right, const Tensor& ring_arcs, const Tensor& ring_offsets, int64_t segments)
      : next(2 * left.size(0), -1) {
    const auto *l = data<int32_t>(left), *r = data<int32_t>(right), *arcs = data<int32_t>(ring_arcs);
    const auto* offset = data<int64_t>(ring_offsets);
    for (int64_t a = 0; a < left.size(0); ++a) {
      side.push_back(r[a] < segments ? std::max(r[a], -1) : -1);
      side.push_back(l[a] < segments ? std::max(l[a], -1) : -1);
    }
    // Every boundary of a segment is in one of its rings, once: so whoever follows them comes back.
    for (int64_t ring = 0; ring + 1 < ring_offsets.size(0); ++ring) {
      const int64_t begin = offset[ring], end = offset[ring + 1];
      STD_TORCH_CHECK(0 <= begin && begin < end && end <= ring_arcs.size(0),
                      "ring_offsets [R+1]: expected to rise within ring_arcs [S]");
      for (int64_t i = begin; i < end; ++i)
        STD_TORCH_CHECK((arcs[i] < 0 ? ~arcs[i] : arcs[i]) < left.size(0), "ring_arcs [S]: expected arcs of [A]");
      const int32_t segment = side[dart(arcs[begin])];
      for (int64_t i = begin; i < end && segment >= 0; ++i) {
        int32_t& following = next[dart(arcs[i])];
        STD_TORCH_CHECK(following < 0 && side[dart(arcs[i])] == segment,
                        "ring_arcs [S]: expected each side of an arc once, in a ring of its segment");
        following = dart(arcs[i + 1 < end ? i + 1 : begin]);
      }
    }
    for (size_t d = 0; d < side.size(); ++d)
      STD_TORCH_CHECK(side[d] < 0 || next[d] >= 0, "ring_arcs [S]: expected every side of an arc that has a segment");
  }
  static int32_t dart(int32_t arc) { return arc < 0 ? 2 * ~arc + 1 : 2 * arc; }

  std::vector<int32_t> next;  // the dart after it around its segment
  std::vector<int32_t> side;  // the segment on its right
};

// Segments with what is painted over them so far.
class Layers {
 public:
  Layers(const Map& map, const std::vector<int64_t>& price, const bool* opaque, int64_t segments)
      : map_(map),
        opaque_(opaque),
        parent_(segments),
        darts_(segments),
        shared_(segments),
        total_(segments, 0),
        version_(segments, 0) {
    for (int64_t s = 0; s < segments; ++s) parent_[s] = static_cast<int32_t>(s);
    for (size_t d = 0; d < map.side.size(); ++d) {
      const int32_t s = map.side[d], other = map.side[d ^ 1];
      if (s < 0) continue;
      darts_[s].push_back(static_cast<int32_t>(d));
      total_[s] += price[d / 2];
      if (other >= 0) shared_[s].push_back({other, price[d / 2]});
    }
    for (int64_t s = 0; s < segments; ++s)
      if (!darts_[s].empty()) push(static_cast<int32_t>(s));
  }

  // Calls paint(segment, boundary darts, whether nothing opaque goes below) from the top to the bottom.
  template <typename Paint>
  void each(const Paint& paint) {
    std::vector<uint8_t> painted(parent_.size(), 0);
    const auto put = [&](int32_t s, bool bottom) {
      auto& darts = darts_[s];
      std::erase_if(darts, [&](int32_t d) { return region(d ^ 1) == s; });
      paint(s, darts, bottom);
      painted[s] = 1;
    };
    while (!queue_.empty()) {
      const Entry top = queue_.top();
      queue_.pop();
      if (top.version != version_[top.segment] || painted[top.segment]) continue;
      const int32_t s = top.segment;
      const auto [below, common] = best(s);
      if (below < 0) continue;
      if (total_[s] - common > top.key) {
        push(s);
        continue;
      }
      put(s, false);
      // It joins what lies below.
      const auto touched = shared_[s];
      parent_[s] = below;
      total_[below] += total_[s] - 2 * common;
      darts_[below].insert(darts_[below].end(), darts_[s].begin(), darts_[s].end());
      shared_[below].insert(shared_[below].end(), touched.begin(), touched.end());
      std::vector<int32_t>().swap(darts_[s]);
      for (const auto& [other, price] : touched)
        if (shared_[other].size() <= kSmall) push(other);
    }
    for (size_t s = 0; s < parent_.size(); ++s)
      if (parent_[s] == static_cast<int32_t>(s) && !darts_[s].empty() && !painted[s])
        put(static_cast<int32_t>(s), true);
  }

  int32_t region(int32_t dart) {
    const int32_t s = map_.side[dart];
    return s < 0 ? -1 : find(s);
  }

 private:
  using Neighbour = std::pair<int32_t, int64_t>;
  struct Entry {
    int64_t key;
    int32_t segment, version;
    bool operator<(const Entry& o) const { return key != o.key ? key > o.key : segment > o.segment; }
  };

  int32_t find(int32_t s) {
    while (parent_[s] != s) s = parent_[s] = parent_[parent_[s]];
    return s;
  }

  // The neighbour with most in common, on top of which the segment goes; -1 where there is none. A transparent one
  // would not hide what is below both.
  Neighbour best(int32_t s) {
    auto& list = shared_[s];
    for (auto& entry : list) entry.first = find(entry.first);
    std::sort(list.begin(), list.end());
    size_t kept = 0;
    for (size_t i = 0; i < list.size();) {
      Neighbour sum{list[i].first, 0};
      for (; i < list.size() && list[i].first == sum.first; ++i) sum.second += list[i].second;
      if (sum.first != s) list[kept++] = sum;
    }
    list.resize(kept);
    Neighbour found{-1, 0};
    for (const auto& entry : list)
      if (opaque_[entry.first] && entry.second > found.second) found = entry;
    return found;
  }

  void push(int32_t s) {
    // What lies below something transparent would be seen.
    if (!opaque_[s]) return;
    const auto [below, common] = best(s);
    if (below < 0) return;
    queue_.push({total_[s] - common, s, ++version_[s]});
  }

  const Map& map_;
  const bool* opaque_;
  std::vector<int32_t> parent_;
  std::vector<std::vector<int32_t>> darts_;
  std::vector<std::vector<Neighbour>> shared_;
  std::vector<int64_t> total_;  // what the boundary of the region costs
  std::vector<int32_t> version_;
  std::priority_queue<Entry> queue_;
};

}  // namespace dhvt
