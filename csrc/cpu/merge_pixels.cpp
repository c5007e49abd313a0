// Merging of the pixels of an image into a binary tree: the first round on the grid, without a list of its edges.
#include "merge_pixels_host.h"

#include "cpu/levels/rows.h"
#include "cpu/merge_round.h"

namespace dhvt {
namespace {

// Where a pixel's best neighbour lies, in the order of the neighbours' numbers; 3 - d is the way back.
enum Direction : uint8_t { kUp, kLeft, kRight, kDown, kNowhere };

// One image. Its rows are worked on in strips, side by side where the image is the only one; what a strip makes is
// numbered after what the strips above it make, so the result does not depend on them.
template <typename T>
class PixelMerger {
 public:
  PixelMerger(const MergeTask<T>& task, const AnyImage<T>& features, int64_t b, const bool* mask, int64_t width)
      : tree_(task),
        features_(features),
        b_(b),
        mask_(mask),
        height_(task.leaves / width),
        width_(width),
        directions_(task.leaves + 2 * width, kNowhere),
        distance_(task.leaves),
        root_(task.leaves, -1),
        added_(task.leaves),
        strips_((task.leaves + kStripPixels - 1) / kStripPixels) {
    // A round on unmerged pixels: n_u n_v / (n_u + n_v) = 1/2, on a boundary of length 1; the boxes' sides add up to 3.
    scale_ = task.kind == MergeDistance::kFeature ? T(1) : T(1) * T(1) / (T(1) + T(1));
    const T sides = 3;
    extra_ = task.compactness > 0 ? task.compactness * (1 - 4 * (T(1) + T(1)) / (sides * sides)) : T(0);
  }

  void run() {
    each_strip([&](Strip&, int64_t begin, int64_t end) { load(begin, end); });
    int64_t nodes = tree_.leaves;
    if (tree_.max_rounds != 0) {
      each_strip([&](Strip& strip, int64_t begin, int64_t end) { order(strip, begin, end); });
      int64_t components = 0;
      for (Strip& strip : strips_) {
        strip.first_node = nodes;
        strip.first_component = components;
        nodes += static_cast<int64_t>(strip.picks.size());
        components += static_cast<int64_t>(strip.component_begin.size()) - 1;
      }
      MergeRounds<T> rounds(tree_);
      rounds.vertices.resize(components);
      each_strip([&](Strip& strip, int64_t, int64_t) { merge(strip, rounds.vertices.data()); });
      each_strip([&](Strip& strip, int64_t begin, int64_t end) { contract(strip, begin, end); });
      for (const Strip& strip : strips_) rounds.raw.insert(rounds.raw.end(), strip.edges.begin(), strip.edges.end());
      nodes = rounds.run(nodes, 1);
    }
    for (; nodes < tree_.nodes; ++nodes) tree_.clear(nodes);
  }

 private:
  static constexpr int64_t kStripPixels = 1 << 14;

  struct Strip {
    std::vector<Pick<T>> picks;
    std::vector<size_t> component_begin;
    std::vector<int32_t> internal;
    std::vector<Edge> edges;
    int64_t first_node, first_component;
  };

  // body(strip, its first row, the row after its last).
  template <typename Body>
  void each_strip(const Body& body) {
    const int64_t n = static_cast<int64_t>(strips_.size());
    parallel(n, [&](int64_t i) { body(strips_[i], i * height_ / n, (i + 1) * height_ / n); });
  }

  const uint8_t* directions() const { return directions_.data() + width_; }
  bool inside(int64_t p) const { return !mask_ || mask_[p]; }

  void read_row(int64_t y, T* out) const {
    features_.visit([&](const auto* data) {
      const auto* from = data + features_.at(b_, y, 0);
      for (int64_t c = 0; c < tree_.channels; ++c, from += features_.channel_stride)
        load_row(from, features_.column_stride, width_, out + c * width_);
    });
  }

  // Distances out [n] of pairs of pixels: a and b in rows of channels.
  void distances(const T* a, const T* b, int64_t n, T* __restrict__ out) const {
    std::fill_n(out, n, T(0));
    for (int64_t c = 0; c < tree_.channels; ++c)
      for (int64_t x = 0; x < n; ++x) {
        const T delta = a[c * width_ + x] - b[c * width_ + x];
        out[x] += delta * delta;
      }
    for (int64_t x = 0; x < n; ++x) {
      const T distance = scale_ * out[x] + extra_;
      out[x] = distance == distance ? distance : std::numeric_limits<T>::infinity();
    }
  }

  // Leaves and picks of the rows [begin, end).
  void load(int64_t begin, int64_t end) {
    constexpr T kNever = std::numeric_limits<T>::infinity();
    const int64_t size = tree_.channels * width_;
    // across[x] lies between the pixels x - 1 and x.
    std::vector<T> row(size), below(size), up(width_, kNever), across(width_ + 1, kNever), down(width_, kNever);
    std::vector<int32_t> ways(width_);
    read_row(begin, row.data());
    if (begin > 0) {
      read_row(begin - 1, below.data());
      distances(below.data(), row.data(), width_, up.data());
    }
    for (int64_t y = begin; y < end; ++y) {
      distances(row.data(), row.data() + 1, width_ - 1, across.data() + 1);
      if (y + 1 < height_) {
        read_row(y + 1, below.data());
        distances(row.data(), below.data(), width_, down.data());
      } else {
        std::fill(down.begin(), down.end(), kNever);
      }
      if (y > 0 && !mask_)
        pick_inner_row(y, up.data(), across.data(), down.data(), ways.data());
      else
        pick_row(y, up.data(), across.data(), down.data());
      write_leaves(y, row.data());
      row.swap(below);
      up.swap(down);
    }
  }

  // All pixels have the one above, which is the first of their neighbours.
  void pick_inner_row(int64_t y, const T* __restrict__ up, const T* __restrict__ across, const T* __restrict__ down,
                      int32_t* __restrict__ ways) {
    T* __restrict__ distance = distance_.data() + y * width_;
    for (int64_t x = 0; x < width_; ++x) {
      T best = up[x];
      int32_t way = kUp;
      way = across[x] < best ? int32_t(kLeft) : way;
      best = across[x] < best ? across[x] : best;
      way = across[x + 1] < best ? int32_t(kRight) : way;
      best = across[x + 1] < best ? across[x + 1] : best;
      way = down[x] < best ? int32_t(kDown) : way;
      best = down[x] < best ? down[x] : best;
      distance[x] = best;
      ways[x] = way;
    }
    uint8_t* out = directions_.data() + width_ + y * width_;
    for (int64_t x = 0; x < width_; ++x) out[x] = static_cast<uint8_t>(ways[x]);
  }

  void pick_row(int64_t y, const T* up, const T* across, const T* down) {
    for (int64_t x = 0, p = y * width_; x < width_; ++x, ++p) {
      if (!inside(p)) continue;
      uint8_t& way = directions_[width_ + p];
      const auto offer = [&](bool exists, int64_t q, T distance, Direction direction) {
        if (!exists || !inside(q) || (way != kNowhere && !(distance < distance_[p]))) return;
        way = direction;
        distance_[p] = distance;
      };
      offer(y > 0, p - width_, up[x], kUp);
      offer(x > 0, p - 1, across[x], kLeft);
      offer(x + 1 < width_, p + 1, across[x + 1], kRight);
      offer(y + 1 < height_, p + width_, down[x], kDown);
    }
  }

  void write_leaves(int64_t y, const T* row) {
    const auto& [count, mean, m2, centroid, box, boundary] = tree_.node;
    const int64_t channels = tree_.channels, first = y * width_;
    for (int64_t x = 0; x < width_; ++x)
      for (int64_t c = 0; c < channels; ++c) mean[(first + x) * channels + c] = row[c * width_ + x];
    std::fill_n(m2 + first * channels, width_ * channels, T(0));
    std::fill_n(tree_.parent + first, width_, -1);
    std::fill_n(tree_.round + first, width_, 0);
    std::fill_n(count + first, width_, 1);
    for (int64_t x = 0; x < width_; ++x) {
      const int64_t p = first + x;
      centroid[2 * p] = T(y), centroid[2 * p + 1] = T(x);
      box[4 * p] = box[4 * p + 2] = static_cast<int32_t>(y);
      box[4 * p + 1] = box[4 * p + 3] = static_cast<int32_t>(x);
      boundary[p] = (y > 0 && inside(p - width_)) + (x > 0 && inside(p - 1)) + (x + 1 < width_ && inside(p + 1)) +
                    (y + 1 < height_ && inside(p + width_));
      if (!inside(p)) tree_.clear(p);
    }
  }

  // The picks of the components whose closest pair begins in the rows [begin, end). At the ends of rows nobody points
  // across, and the rows before the first and after the last point nowhere: neighbours need no test.
  void order(Strip& strip, int64_t begin, int64_t end) {
    const uint8_t* way = directions();
    const int64_t step[4] = {-width_, -1, 1, width_};
    for (int64_t u = begin * width_; u < end * width_; ++u) {
      if (way[u] != kRight && way[u] != kDown) continue;
      const int64_t v = u + step[way[u]];
      if (way[v] != 3 - way[u]) continue;
      const size_t first = strip.picks.size();
      strip.component_begin.push_back(first);
      const auto root = static_cast<int32_t>(u);
      root_[u] = root_[v] = root;
      strip.picks.push_back({distance_[u], root, static_cast<int32_t>(v), root});
      const auto add_pickers = [&](int64_t of) {
        for (int d = 0; d < 4; ++d) {
          const int64_t w = of + step[d];
          if (way[w] != 3 - d || d == way[of]) continue;  // the closest pair is there
          root_[w] = root;
          strip.picks.push_back({distance_[w], static_cast<int32_t>(std::min(w, of)),
                                 static_cast<int32_t>(std::max(w, of)), static_cast<int32_t>(w)});
        }
      };
      add_pickers(u);
      add_pickers(v);
      for (size_t p = first + 1; p < strip.picks.size(); ++p) add_pickers(strip.picks[p].single);
      sort_component(strip.picks, first);
      added_[v] = static_cast<int32_t>(first);
      for (size_t p = first; p < strip.picks.size(); ++p) added_[strip.picks[p].single] = static_cast<int32_t>(p);
    }
    strip.component_begin.push_back(strip.picks.size());
  }

  // Makes the nodes of a strip's picks; vertices [components] are the last of each component.
  void merge(Strip& strip, int32_t* vertices) {
    strip.internal.assign(strip.picks.size(), 0);
    for (size_t i = 0; i + 1 < strip.component_begin.size(); ++i) {
      const size_t begin = strip.component_begin[i], end = strip.component_begin[i + 1];
      const auto count_inner = [&](int64_t u) {
        const auto with = [&](int64_t v) {
          if (root_[v] == root_[u]) ++strip.internal[std::max(added_[u], added_[v])];
        };
        if ((u + 1) % width_ != 0) with(u + 1);
        if (u + width_ < tree_.leaves) with(u + width_);
      };
      int64_t joined = strip.picks[begin].high;
      if (end == begin + 1) {
        strip.internal[begin] = 1;
      } else {
        count_inner(joined);
        for (size_t p = begin; p < end; ++p) count_inner(strip.picks[p].single);
      }
      for (size_t p = begin; p < end; ++p) {
        const int64_t node = strip.first_node + static_cast<int64_t>(p);
        tree_.join(node, strip.picks[p].single, joined, strip.internal[p], 1);
        joined = node;
      }
      const int64_t component = strip.first_component + static_cast<int64_t>(i);
      vertices[component] = static_cast<int32_t>(joined);
      added_[strip.picks[begin].low] = static_cast<int32_t>(component);  // which nobody asks for any more
    }
  }

  // The edges that remain, from the rows [begin, end) to the right and down.
  void contract(Strip& strip, int64_t begin, int64_t end) {
    const auto component = [&](int64_t p) { return added_[root_[p]]; };
    for (int64_t y = begin; y < end; ++y) {
      Edge below{-1, -1, 0};  // runs of pixels often touch the same two
      for (int64_t x = 0, p = y * width_; x < width_; ++x, ++p) {
        if (root_[p] < 0) continue;
        const auto differs = [&](int64_t q) { return root_[q] >= 0 && root_[q] != root_[p]; };
        if (x + 1 < width_ && differs(p + 1)) strip.edges.push_back({component(p), component(p + 1), 1});
        if (y + 1 == height_ || !differs(p + width_)) continue;
        const int32_t u = component(p), v = component(p + width_);
        if (u != below.u || v != below.v) {
          if (below.length > 0) strip.edges.push_back(below);
          below = {u, v, 0};
        }
        ++below.length;
      }
      if (below.length > 0) strip.edges.push_back(below);
    }
  }

  Tree<T> tree_;
  AnyImage<T> features_;
  int64_t b_;
  const bool* mask_;
  int64_t height_, width_;
  T scale_, extra_;
  std::vector<uint8_t> directions_;  // after a row of kNowhere, and before another
  std::vector<T> distance_;          // of each pixel's pick
  std::vector<int32_t> root_,
      added_;  // of each pixel: the first of its component's closest pair, the pick that adds it
  std::vector<Strip> strips_;
};

MergedTree merge_pixels(const Tensor& features, const std::optional<Tensor>& mask, std::string distance,
                        double compactness, int64_t depth) {
  return merge_pixels_checked(
      features, mask, distance, compactness, depth, [&]<typename T>(const bool* masks, const MergeTask<T>& task) {
        const AnyImage<T> image = any_image<T>(features);
        // Inside one image the strips run side by side; where there are several, images do.
        parallel(features.size(0), [&](int64_t b) {
          PixelMerger<T>(task.of_image(b), image, b, masks ? masks + b * task.leaves : nullptr, features.size(3)).run();
        });
      });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("merge_pixels", TORCH_BOX(&dhvt::merge_pixels)); }
