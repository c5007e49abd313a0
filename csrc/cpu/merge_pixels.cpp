// Merging of the pixels of an image into a binary tree: the first round on the grid, without a list of its edges.
#include "merge_pixels_host.h"

#include <bit>
#include <cstring>

#include "cpu/levels/rows.h"
#include "cpu/merge_round.h"

namespace dhvt {
namespace {

// Where a pixel's best neighbour lies, in the order of the neighbours' numbers; 3 - d is the way back.
enum Direction : uint8_t { kUp, kLeft, kRight, kDown, kNowhere };

// The pixels of an image. A byte of `ways` has the Direction of a pixel's pick, and from kExists on a bit for each
// direction in which there is a neighbour; one of `pickers` has a bit for each direction in which a neighbour picked
// it, and kRoot for the first of two that picked each other.
template <typename T>
struct PixelGraph {
  static constexpr int kExists = 3;
  static constexpr uint8_t kRoot = 1 << 4;

  const Tree<T>& tree;
  int64_t width;
  int64_t step[4];
  std::vector<uint8_t> ways;     // after a row of kNowhere, and before another
  std::vector<uint8_t> pickers;  // and some bytes of nothing
  std::vector<T> distances;      // of each pixel's pick
  std::vector<T> zeros;          // the m2 of a pixel

  PixelGraph(const Tree<T>& tree, int64_t width)
      : tree(tree),
        width(width),
        step{-width, -1, 1, width},
        ways(tree.leaves + 2 * width, kNowhere),
        pickers(tree.leaves + 8),
        distances(tree.leaves),
        zeros(tree.channels) {}

  uint8_t* way() { return ways.data() + width; }
  const uint8_t* way() const { return ways.data() + width; }
  static constexpr uint8_t direction(uint8_t way) { return way & ((1 << kExists) - 1); }
  static constexpr uint8_t exists(bool is, Direction d) { return static_cast<uint8_t>(is << (kExists + d)); }

  // Once all pixels in and around [first, last) have picked. At the ends of rows nobody points across, and the rows
  // before the first and after the last point nowhere.
  void find_pickers(int64_t first, int64_t last) {
    const uint8_t* own = way();
    const uint8_t *above = own - width, *before = own - 1, *after = own + 1, *below = own + width;
    uint8_t* __restrict__ out = pickers.data();
    for (int64_t p = first; p < last; ++p) {
      const uint8_t down = direction(above[p]) == kDown, right = direction(before[p]) == kRight;
      const uint8_t left = direction(after[p]) == kLeft, up = direction(below[p]) == kUp;
      const uint8_t is_root = (left & (direction(own[p]) == kRight)) | (up & (direction(own[p]) == kDown));
      out[p] = static_cast<uint8_t>(down << kUp | right << kLeft | left << kRight | up << kDown | is_root * kRoot);
    }
  }

  int64_t size() const { return tree.leaves; }
  int64_t degree(int64_t p) const {
    constexpr uint8_t bits[16] = {0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4};
    return bits[way()[p] >> kExists];
  }
  int32_t node(int64_t p) const { return static_cast<int32_t>(p); }
  Region<T> region(int64_t p) const {
    const auto y = static_cast<int32_t>(static_cast<uint32_t>(p) / static_cast<uint32_t>(width));
    const auto x = static_cast<int32_t>(p - y * width);
    return {
        1,           static_cast<int32_t>(degree(p)), tree.node.mean + p * tree.channels, zeros.data(), {T(y), T(x)},
        {y, x, y, x}};
  }
  void prefetch(int64_t p) const { __builtin_prefetch(tree.node.mean + p * tree.channels); }
  int32_t neighbour(int64_t p) const {
    const int d = direction(way()[p]);
    return d == kNowhere ? -1 : static_cast<int32_t>(p + step[d]);
  }
  auto distance(int64_t p) const { return ordered_bits(distances[p]); }

  // Eight pixels at a time.
  template <typename Body>
  void each_root(int64_t first, int64_t last, const Body& body) const {
    for (int64_t p = first; p < last; p += 8) {
      uint64_t roots;
      std::memcpy(&roots, pickers.data() + p, 8);
      roots &= 0x0101010101010101u * kRoot;
      for (; roots != 0; roots &= roots - 1) {
        const int64_t root = p + std::countr_zero(roots) / 8;
        if (root < last) body(static_cast<int32_t>(root));
      }
    }
  }
  // A neighbour that is missing counts as the pixel itself.
  template <typename Body>
  void each_neighbour(int64_t p, const Body& body) const {
    const int exist = way()[p] >> kExists;
    for (int d = 0; d < 4; ++d) body(static_cast<int32_t>(p + (exist >> d & 1 ? step[d] : 0)), 1);
  }
  template <typename Body>
  void each_picker(int64_t p, const Body& body) const {
    for (int bits = pickers[p] & (kRoot - 1); bits != 0; bits &= bits - 1)
      body(static_cast<int32_t>(p + step[std::countr_zero(static_cast<unsigned>(bits))]));
  }
};

// One image. Its rows are read in strips, side by side where the image is the only one.
template <typename T>
class PixelMerger {
 public:
  PixelMerger(const MergeTask<T>& task, const AnyImage<T>& features, int64_t b, const bool* mask, int64_t width)
      : tree_(task),
        graph_(tree_, width),
        features_(features),
        b_(b),
        mask_(mask),
        height_(task.leaves / width),
        width_(width) {
    // A round on unmerged pixels: n_u n_v / (n_u + n_v) = 1/2, on a boundary of length 1; the boxes' sides add up to 3.
    const T half = T(1) * T(1) / (T(1) + T(1)), sides = 3, spread = 1 - 4 * (T(1) + T(1)) / (sides * sides);
    contrast_ = task.kind == MergeDistance::kContrast;
    scale_ = contrast_ ? (kContrastCount + half) / (kContrastLength + T(1)) : half;
    if (task.kind == MergeDistance::kFeature) scale_ = 1;
    spread_ = contrast_ ? spread : T(0);
    extra_ = task.compactness > 0 ? task.compactness * spread : T(0);
  }

  void run() {
    const int64_t strips = (tree_.leaves + kStripPixels - 1) / kStripPixels;
    parallel(strips, [&](int64_t i) { load(i * height_ / strips, (i + 1) * height_ / strips); });
    int64_t nodes = tree_.leaves;
    if (tree_.max_rounds != 0) {
      parallel(strips, [&](int64_t i) {
        graph_.find_pickers(i * height_ / strips * width_, (i + 1) * height_ / strips * width_);
      });
      MergeRounds<T, int32_t> rounds(tree_);
      rounds.merge(graph_);
      nodes = rounds.run();
    }
    for (; nodes < tree_.nodes; ++nodes) tree_.clear(nodes);
  }

 private:
  static constexpr int64_t kStripPixels = 1 << 14;

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
        out[x] += contrast_ ? delta * delta / tree_.noise : delta * delta;
      }
    for (int64_t x = 0; x < n; ++x) {
      const T distance = scale_ * (out[x] + spread_) + extra_;
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
      if (mask_ || y == 0)
        pick_row(y, up.data(), across.data(), down.data());
      else
        pick_inner_row(y, up.data(), across.data(), down.data(), ways.data());
      write_leaves(y, row.data());
      row.swap(below);
      up.swap(down);
    }
  }

  // All pixels have the one above, which is the first of their neighbours.
  void pick_inner_row(int64_t y, const T* __restrict__ up, const T* __restrict__ across, const T* __restrict__ down,
                      int32_t* __restrict__ ways) {
    T* __restrict__ distance = graph_.distances.data() + y * width_;
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
    using Graph = PixelGraph<T>;
    const int32_t all = Graph::exists(true, kUp) | Graph::exists(true, kLeft) | Graph::exists(true, kRight) |
                        Graph::exists(y + 1 < height_, kDown);
    uint8_t* out = graph_.way() + y * width_;
    for (int64_t x = 0; x < width_; ++x) out[x] = static_cast<uint8_t>(ways[x] | all);
    out[0] &= static_cast<uint8_t>(~Graph::exists(true, kLeft));
    out[width_ - 1] &= static_cast<uint8_t>(~Graph::exists(true, kRight));
  }

  void pick_row(int64_t y, const T* up, const T* across, const T* down) {
    for (int64_t x = 0, p = y * width_; x < width_; ++x, ++p) {
      if (!inside(p)) continue;
      Direction best = kNowhere;
      uint8_t neighbours = 0;
      const auto offer = [&](bool exists, int64_t q, T distance, Direction direction) {
        if (!exists || !inside(q)) return;
        neighbours |= PixelGraph<T>::exists(true, direction);
        if (best != kNowhere && !(distance < graph_.distances[p])) return;
        best = direction;
        graph_.distances[p] = distance;
      };
      offer(y > 0, p - width_, up[x], kUp);
      offer(x > 0, p - 1, across[x], kLeft);
      offer(x + 1 < width_, p + 1, across[x + 1], kRight);
      offer(y + 1 < height_, p + width_, down[x], kDown);
      graph_.way()[p] = neighbours | best;
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
      boundary[p] = static_cast<int32_t>(graph_.degree(p));
      if (!inside(p)) tree_.clear(p);
    }
  }

  Tree<T> tree_;
  PixelGraph<T> graph_;
  AnyImage<T> features_;
  int64_t b_;
  const bool* mask_;
  int64_t height_, width_;
  // A distance of the first round is scale_ (square + spread_) + extra_.
  bool contrast_;
  T scale_, spread_, extra_;
};

MergedTree merge_pixels(const Tensor& features, const std::optional<Tensor>& mask, std::string distance,
                        double compactness, int64_t depth, double noise) {
  return merge_pixels_checked(
      features, mask, distance, compactness, depth, noise,
      [&]<typename T>(const bool* masks, const MergeTask<T>& task) {
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
