// Boundaries of segments as arcs between junctions, and rings of arcs: flags for every lattice point, strips of rows in
// parallel; then one walk along every boundary, and one from arc to arc around every segment. Beyond the labels and the
// outputs it takes 1.2 bytes per pixel.
#include "trace.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <memory>

#include "common.h"
#include "cpu/levels/trace_kernels.h"

namespace dhvt {
namespace {

constexpr int64_t kMaxPoints = int64_t{1} << 29;  // so that four ids per junction, and two per arc, are int32
constexpr uint64_t kEveryByte = 0x0101010101010101;
constexpr int kDy[4] = {0, 1, 0, -1}, kDx[4] = {1, 0, -1, 0};
// The pixel on the left of an edge, from where the edge starts; the one on the right is the left one of the direction
// a quarter turn clockwise.
constexpr int kLeftY[4] = {-1, 0, 0, -1}, kLeftX[4] = {0, 0, -1, -1};

struct Point {
  int32_t y, x;
};

// Flags of all lattice points in raster order, filled up with zeros to whole blocks of 64.
class Lattice {
 public:
  Lattice(const int32_t* labels, int64_t height, int64_t width)
      : stride(width + 1),
        blocks(((height + 1) * stride + 63) / 64),
        flags(std::make_unique_for_overwrite<uint8_t[]>(blocks * 64)) {
    const std::vector<int32_t> outside(width, -1);
    const auto row = DHVT_AT_LEVEL(lattice_row);
    parallel(
        height + 1,
        [&](int64_t y) {
          row(y > 0 ? labels + (y - 1) * width : outside.data(), y < height ? labels + y * width : outside.data(),
              width, flags.get() + y * stride);
        },
        32);
    std::fill(flags.get() + (height + 1) * stride, flags.get() + blocks * 64, uint8_t{0});
  }

  // Eight flags at once, the first in the lowest byte.
  uint64_t eight(int64_t point) const {
    uint64_t word = 0;
    if constexpr (std::endian::native == std::endian::little) {
      std::memcpy(&word, flags.get() + point, 8);
    } else {
      for (int i = 0; i < 8; ++i) word |= uint64_t{flags[point + i]} << 8 * i;
    }
    return word;
  }

  const int64_t stride, blocks;
  const std::unique_ptr<uint8_t[]> flags;
};

// The junctions in raster order: one bit for every lattice point, and how many there are before each 64 of them.
class Junctions {
 public:
  explicit Junctions(const Lattice& lattice) : bits_(lattice.blocks, 0), before_(lattice.blocks) {
    for (int64_t block = 0; block < lattice.blocks; ++block) {
      before_[block] = count_;
      for (int i = 0; i < 8; ++i) {
        const uint64_t found = lattice.eight(block * 64 + i * 8) & kEveryByte * kJunction;
        // The product moves the bits of the eight bytes side by side into the highest byte.
        if (found != 0) bits_[block] |= (found / kJunction * 0x0102040810204080) >> 56 << i * 8;
      }
      count_ += std::popcount(bits_[block]);
    }
  }

  int32_t count() const { return count_; }

  int32_t at(int64_t point) const {
    const uint64_t earlier = bits_[point / 64] & ((uint64_t{1} << point % 64) - 1);
    return before_[point / 64] + std::popcount(earlier);
  }

  template <typename Body>
  void each(const Body& body) const {
    for (size_t block = 0; block < bits_.size(); ++block)
      for (uint64_t rest = bits_[block]; rest != 0; rest &= rest - 1)
        body(static_cast<int64_t>(block) * 64 + std::countr_zero(rest));
  }

 private:
  std::vector<uint64_t> bits_;
  std::vector<int32_t> before_;
  int32_t count_ = 0;
};

// Arc a gives two darts, 2 a along it and 2 a + 1 back.
class Tracer {
 public:
  Tracer(const int32_t* labels, int64_t height, int64_t width)
      : labels_(labels), height_(height), width_(width), lattice_(labels, height, width), junctions_(lattice_) {
    leaving_.assign(4 * static_cast<size_t>(junctions_.count()), -1);
    junctions_.each([&](int64_t start) {
      const int32_t junction = junctions_.at(start);
      for (int d = 0; d < 4; ++d)
        if ((lattice_.flags[start] >> d & 1) && leaving_[4 * junction + d] < 0) open_arc(start, junction, d);
    });
    // What the arcs between junctions have left is closed. Its first point in raster order has an edge to the right.
    for (int64_t point = 0; point < lattice_.blocks * 64; point += 8) {
      if ((lattice_.eight(point) & kEveryByte * 15) == 0) continue;
      for (int i = 0; i < 8; ++i)
        if (uint8_t& flag = lattice_.flags[point + i]; flag != 0 && !(flag & kJunction)) {
          flag = kJunction;
          walk(point + i, 0);
          arrival.insert(arrival.end(), {-1, -1});
          closed.push_back(1);
          flag = 0;
        }
    }
  }

  std::vector<Point> points;
  std::vector<int64_t> offsets{0};
  std::vector<int32_t> left, right;
  std::vector<uint8_t> closed;
  std::vector<int64_t> area;     // of an arc: the sum of x dy along it
  std::vector<int32_t> arrival;  // of a dart: 4 times the junction where it ends, plus its last direction; or -1

  // The dart that goes on around the segment on the right: of the boundaries where this one ends, the rightmost. So
  // pixels that only touch diagonally do not connect.
  int32_t next(int32_t dart) const {
    if (arrival[dart] < 0) return dart;
    const int32_t* from = leaving_.data() + arrival[dart] / 4 * 4;
    for (int turn : {1, 0})
      if (const int32_t other = from[(arrival[dart] + turn) & 3]; other >= 0) return other;
    return from[(arrival[dart] + 3) & 3];
  }

 private:
  struct End {
    int64_t point;
    int direction;
  };

  int32_t label(int64_t y, int64_t x) const {
    if (y < 0 || y >= height_ || x < 0 || x >= width_) return -1;
    return std::max(labels_[y * width_ + x], -1);
  }

  void open_arc(int64_t start, int32_t junction, int direction) {
    const auto arc = static_cast<int32_t>(left.size());
    const End end = walk(start, direction);
    const int32_t other = junctions_.at(end.point), back = (direction + 2) & 3;
    leaving_[4 * junction + direction] = 2 * arc;
    leaving_[4 * other + ((end.direction + 2) & 3)] = 2 * arc + 1;
    arrival.insert(arrival.end(), {4 * other + end.direction, 4 * junction + back});
    closed.push_back(0);
  }

  // Adds the arc from a junction to the next, and takes the flags of the points between.
  End walk(int64_t point, int d) {
    uint8_t* flags = lattice_.flags.get();
    const int64_t step[4] = {1, lattice_.stride, -1, -lattice_.stride};
    auto y = static_cast<int32_t>(point / lattice_.stride), x = static_cast<int32_t>(point % lattice_.stride);
    left.push_back(label(y + kLeftY[d], x + kLeftX[d]));
    right.push_back(label(y + kLeftY[(d + 1) & 3], x + kLeftX[(d + 1) & 3]));
    points.push_back({y, x});
    int64_t sum = 0;
    for (;;) {
      y += kDy[d];
      x += kDx[d];
      sum += int64_t{x} * kDy[d];
      point += step[d];
      const uint8_t flag = flags[point];
      if (flag & kJunction) break;
      flags[point] = 0;
      const int onwards = std::countr_zero(static_cast<unsigned>(flag & ~(1 << ((d + 2) & 3))));
      if (onwards != d) points.push_back({y, x});
      d = onwards;
    }
    points.push_back({y, x});
    offsets.push_back(static_cast<int64_t>(points.size()));
    area.push_back(sum);
    return {point, d};
  }

  const int32_t* labels_;
  const int64_t height_, width_;
  const Lattice lattice_;
  const Junctions junctions_;
  std::vector<int32_t> leaving_;  // [junctions, 4]: the dart that leaves a junction in each direction, or -1
};

struct Ring {
  uint32_t key;  // twice the label, plus 1 for a hole
  int64_t begin, end;
};

// The rings around all segments, in order of the first of their darts; their signed arcs come one ring after another.
std::vector<Ring> follow(const Tracer& arcs, std::vector<int32_t>& sequence) {
  std::vector<Ring> rings;
  const auto darts = static_cast<int32_t>(arcs.arrival.size());
  std::vector<bool> seen(darts);
  for (int32_t first = 0; first < darts; ++first) {
    const int32_t label = (first & 1) ? arcs.left[first / 2] : arcs.right[first / 2];
    if (seen[first] || label < 0) continue;
    const auto begin = static_cast<int64_t>(sequence.size());
    int64_t area = 0;
    int32_t dart = first;
    do {
      const int32_t arc = dart / 2;
      seen[dart] = true;
      sequence.push_back((dart & 1) ? ~arc : arc);
      area += (dart & 1) ? -arcs.area[arc] : arcs.area[arc];
      dart = arcs.next(dart);
    } while (dart != first);
    rings.push_back({static_cast<uint32_t>(label) << 1 | (area < 0), begin, static_cast<int64_t>(sequence.size())});
  }
  return rings;
}

// Stable, in linear time: byte by byte, without those that are the same everywhere.
void sort_by_key(std::vector<Ring>& rings) {
  std::vector<Ring> other(rings.size());
  for (int shift = 0; shift < 32; shift += 8) {
    std::array<size_t, 257> begin{};
    for (const Ring& ring : rings) ++begin[(ring.key >> shift & 255) + 1];
    if (std::find(begin.begin(), begin.end(), rings.size()) != begin.end()) continue;
    for (int digit = 0; digit < 256; ++digit) begin[digit + 1] += begin[digit];
    for (const Ring& ring : rings) other[begin[ring.key >> shift & 255]++] = ring;
    rings.swap(other);
  }
}

template <typename T>
Tensor tensor(const std::vector<T>& values, ScalarType type, const Tensor& like) {
  Tensor out = empty({static_cast<int64_t>(values.size())}, type, like);
  if (!values.empty()) std::memcpy(out.mutable_data_ptr(), values.data(), values.size() * sizeof(T));
  return out;
}

using Nine = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Nine trace(const Tensor& any_labels) {
  check(any_labels, "labels [H,W]", ScalarType::Int, {-1, -1});
  // Without pixels there are no boundaries, as where one pixel belongs to no segment.
  const int32_t none = -1;
  const bool pixels = any_labels.size(0) > 0 && any_labels.size(1) > 0;
  const int64_t height = pixels ? any_labels.size(0) : 1, width = pixels ? any_labels.size(1) : 1;
  STD_TORCH_CHECK(height < kMaxPoints && width < kMaxPoints && (height + 1) * (width + 1) <= kMaxPoints,
                  "labels [H,W]: expected at most 2^29 lattice points, (H + 1) (W + 1); found ", height, " x ", width);
  const Tensor labels = dense(any_labels);
  const Tracer arcs(pixels ? data<int32_t>(labels) : &none, height, width);
  std::vector<int32_t> sequence;
  std::vector<Ring> rings = follow(arcs, sequence);
  sort_by_key(rings);

  const auto corners = static_cast<int64_t>(arcs.points.size()), count = static_cast<int64_t>(rings.size());
  Tensor points = empty({corners, 2}, ScalarType::Int, labels);
  if (corners > 0) std::memcpy(points.mutable_data_ptr(), arcs.points.data(), corners * sizeof(Point));
  Tensor ring_arcs = empty({static_cast<int64_t>(sequence.size())}, ScalarType::Int, labels);
  Tensor ring_offsets = empty({count + 1}, ScalarType::Long, labels);
  Tensor ring_labels = empty({count}, ScalarType::Int, labels);
  Tensor holes = empty({count}, ScalarType::Bool, labels);
  int64_t* offset = mutable_data<int64_t>(ring_offsets);
  offset[0] = 0;
  for (int64_t r = 0; r < count; ++r) {
    const Ring& ring = rings[r];
    std::copy(sequence.begin() + ring.begin, sequence.begin() + ring.end, mutable_data<int32_t>(ring_arcs) + offset[r]);
    offset[r + 1] = offset[r] + ring.end - ring.begin;
    mutable_data<int32_t>(ring_labels)[r] = static_cast<int32_t>(ring.key >> 1);
    mutable_data<bool>(holes)[r] = ring.key & 1;
  }
  return {points,
          tensor(arcs.offsets, ScalarType::Long, labels),
          tensor(arcs.left, ScalarType::Int, labels),
          tensor(arcs.right, ScalarType::Int, labels),
          tensor(arcs.closed, ScalarType::Bool, labels),
          ring_arcs,
          ring_offsets,
          ring_labels,
          holes};
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("trace", TORCH_BOX(&dhvt::trace)); }
