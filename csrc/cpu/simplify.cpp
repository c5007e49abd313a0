// Arcs with fewer points. One point after the other is taken out, that of the smallest triangle with its neighbours
// first, and only where no other point lies in that triangle: then no line comes to cross another. Integers throughout.
// One bit per lattice point, and about 40 bytes per point.
#include <algorithm>
#include <cmath>
#include <queue>
#include <set>

#include "common.h"

namespace dhvt {
namespace {

constexpr int64_t kMaxPoints = int64_t{1} << 29;  // as for trace

struct Point {
  int32_t y, x;
  auto operator<=>(const Point&) const = default;
};

// Twice the area of a triangle, positive where it runs clockwise in the picture.
int64_t cross(Point a, Point b, Point c) {
  return (int64_t{b.x} - a.x) * (int64_t{c.y} - a.y) - (int64_t{b.y} - a.y) * (int64_t{c.x} - a.x);
}

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

// The lattice points at which there is a point of an arc.
class Occupied {
 public:
  Occupied(const Point* points, int64_t count) {
    for (const Point* p = points; p < points + count; ++p) {
      low_ = {std::min(low_.y, p->y), std::min(low_.x, p->x)};
      high_ = {std::max(high_.y, p->y), std::max(high_.x, p->x)};
    }
    if (count == 0) return;
    stride_ = int64_t{high_.x} - low_.x + 1;
    const int64_t rows = int64_t{high_.y} - low_.y + 1;
    STD_TORCH_CHECK(rows <= kMaxPoints && stride_ <= kMaxPoints && rows * stride_ <= kMaxPoints,
                    "points [P,2]: expected at most 2^29 lattice points; found ", rows, " x ", stride_);
    bits_.resize(rows * stride_);
    for (const Point* p = points; p < points + count; ++p) bits_[index(*p)] = true;
  }
  void clear(Point p) { bits_[index(p)] = false; }

  // Whether a point other than its corners lies in the triangle or on its border.
  bool in_triangle(Point a, Point b, Point c) const {
    if (cross(a, b, c) < 0) std::swap(b, c);
    const auto [top, bottom] = std::minmax({a.y, b.y, c.y});
    const auto [first, last] = std::minmax({a.x, b.x, c.x});
    for (int32_t y = top; y <= bottom; ++y) {
      int64_t low = first, high = last;
      for (const auto& [from, to] : {std::pair{a, b}, {b, c}, {c, a}}) {
        // On the right of this side: dy (x - from.x) <= along.
        const int64_t dy = int64_t{to.y} - from.y, along = (int64_t{to.x} - from.x) * (int64_t{y} - from.y);
        if (dy > 0) high = std::min(high, from.x + floor_div(along, dy));
        if (dy < 0) low = std::max(low, from.x - floor_div(along, -dy));
        if (dy == 0 && along < 0) high = low - 1;
      }
      for (int64_t x = low; x <= high; ++x) {
        const Point p{y, static_cast<int32_t>(x)};
        if (bits_[index(p)] && p != a && p != b && p != c) return true;
      }
    }
    return false;
  }

 private:
  int64_t index(Point p) const { return (int64_t{p.y} - low_.y) * stride_ + p.x - low_.x; }

  Point low_{INT32_MAX, INT32_MAX}, high_{INT32_MIN, INT32_MIN};
  int64_t stride_ = 0;
  std::vector<bool> bits_;
};

class Simplifier {
 public:
  Simplifier(const Point* points, const int64_t* offsets, const bool* closed, int64_t arcs)
      : points_(points),
        occupied_(points, offsets[arcs]),
        previous_(offsets[arcs]),
        next_(offsets[arcs]),
        arc_(offsets[arcs]),
        length_(arcs),
        kept(offsets[arcs], 1),
        candidate(offsets[arcs], 1) {
    for (int64_t a = 0; a < arcs; ++a) {
      const int64_t first = offsets[a], last = offsets[a + 1] - 1;
      length_[a] = last - first;
      for (int64_t i = first; i <= last; ++i) {
        previous_[i] = i - 1;
        next_[i] = i + 1;
        arc_[i] = static_cast<int32_t>(a);
      }
      // The last point of a closed arc is its first.
      previous_[first] = closed[a] ? last - 1 : -1;
      next_[last] = -1;
      if (closed[a]) next_[last - 1] = first;
      candidate[last] = 0;
      if (!closed[a]) candidate[first] = 0;
      // A closed arc keeps three points, one that ends where it starts, two besides; others may become one line.
      least_.push_back(closed[a] || points[first] == points[last] ? 3 : 1);
      if (length_[a] == 1) lines_.insert(chord(first, last));
      ends_.push_back({first, last});
    }
  }

  // Takes candidates out while the doubled area of their triangle is at most `limit`.
  void run(int64_t limit) {
    limit_ = limit;
    for (int64_t i = 0; i < static_cast<int64_t>(kept.size()); ++i) push(i);
    while (!queue_.empty()) {
      const auto [area, i] = queue_.top();
      queue_.pop();
      if (!kept[i] || area != doubled_area(i) || !may_go(i)) continue;
      const int64_t before = previous_[i], after = next_[i];
      kept[i] = 0;
      occupied_.clear(points_[i]);
      next_[before] = after;
      previous_[after] = before;
      const int32_t a = arc_[i];
      if (--length_[a] == 1) lines_.insert(chord(ends_[a].first, ends_[a].second));
      push(before);
      push(after);
    }
  }

 private:
  using Line = std::pair<Point, Point>;

  Line chord(int64_t first, int64_t last) const { return std::minmax(points_[first], points_[last]); }

  int64_t doubled_area(int64_t i) const {
    return std::abs(cross(points_[previous_[i]], points_[i], points_[next_[i]]));
  }

  void push(int64_t i) {
    if (!candidate[i] || !kept[i]) return;
    const int64_t area = doubled_area(i);
    if (area <= limit_) queue_.push({area, i});
  }

  bool may_go(int64_t i) const {
    const int32_t a = arc_[i];
    if (length_[a] <= least_[a]) return false;
    // Two arcs between the same junctions may not become the same line.
    if (length_[a] == 2 && lines_.count(chord(ends_[a].first, ends_[a].second)) > 0) return false;
    return !occupied_.in_triangle(points_[previous_[i]], points_[i], points_[next_[i]]);
  }

  const Point* points_;
  Occupied occupied_;
  std::vector<int64_t> previous_, next_;
  std::vector<int32_t> arc_;
  std::vector<int64_t> length_, least_;  // lines of each arc, and how many have to stay
  std::vector<std::pair<int64_t, int64_t>> ends_;
  std::set<Line> lines_;  // of arcs that are one line
  int64_t limit_ = 0;
  using Entry = std::pair<int64_t, int64_t>;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue_;

 public:
  std::vector<uint8_t> kept, candidate;
};

// Douglas and Peucker: keeps the point that is farthest from the line between two that stay, if it is farther away than
// the tolerance, and goes on on both sides of it.
void mark_far(const Point* points, int64_t first, int64_t last, double tolerance, std::vector<uint8_t>& candidate) {
  std::vector<std::pair<int64_t, int64_t>> open{{first, last}};
  while (!open.empty()) {
    const auto [begin, end] = open.back();
    open.pop_back();
    const Point a = points[begin], b = points[end];
    const double dy = b.y - a.y, dx = b.x - a.x, square = dy * dy + dx * dx;
    double most = tolerance * tolerance;
    int64_t farthest = -1;
    for (int64_t i = begin + 1; i < end; ++i) {
      const double py = points[i].y - a.y, px = points[i].x - a.x;
      const double along = square > 0 ? std::clamp((py * dy + px * dx) / square, 0.0, 1.0) : 0.0;
      const double oy = py - along * dy, ox = px - along * dx, distance = oy * oy + ox * ox;
      if (distance > most) {
        most = distance;
        farthest = i;
      }
    }
    if (farthest < 0) continue;
    candidate[farthest] = 0;
    open.push_back({begin, farthest});
    open.push_back({farthest, end});
  }
}

// The point of a closed arc that is farthest from its first one: with it, two open arcs.
int64_t opposite(const Point* points, int64_t first, int64_t last) {
  int64_t most = -1, found = first;
  for (int64_t i = first; i < last; ++i) {
    const int64_t dy = int64_t{points[i].y} - points[first].y, dx = int64_t{points[i].x} - points[first].x;
    if (dy * dy + dx * dx > most) {
      most = dy * dy + dx * dx;
      found = i;
    }
  }
  return found;
}

std::tuple<Tensor, Tensor> simplify(const Tensor& any_points, const Tensor& any_offsets, const Tensor& any_closed,
                                    double tolerance, std::string method) {
  check(any_points, "points [P,2]", ScalarType::Int, {-1, 2});
  check(any_offsets, "offsets [A+1]", ScalarType::Long, {-1});
  const int64_t arcs = any_offsets.size(0) - 1;
  STD_TORCH_CHECK(arcs >= 0, "offsets [A+1]: expected at least one");
  check(any_closed, "closed [A]", ScalarType::Bool, {arcs});
  STD_TORCH_CHECK(tolerance >= 0, "tolerance: expected at least 0; found ", tolerance);
  STD_TORCH_CHECK(method == "visvalingam" || method == "douglas-peucker",
                  "method: expected visvalingam or douglas-peucker; found ", method);
  const Tensor points = dense(any_points), offsets = dense(any_offsets), closed = dense(any_closed);
  const auto* point = reinterpret_cast<const Point*>(data<int32_t>(points));
  const auto* offset = data<int64_t>(offsets);
  const auto* loop = data<bool>(closed);
  STD_TORCH_CHECK(offset[0] == 0 && offset[arcs] == points.size(0), "offsets [A+1]: expected to cover points [P,2]");
  for (int64_t a = 0; a < arcs; ++a)
    STD_TORCH_CHECK(offset[a] + (loop[a] ? 4 : 2) <= offset[a + 1],
                    "offsets [A+1]: expected two points or more for every arc, four where it is closed");

  Simplifier lines(point, offset, loop, arcs);
  double limit = 9e18;  // any triangle of int32
  if (method == "douglas-peucker") {
    for (int64_t a = 0; a < arcs; ++a) {
      const int64_t first = offset[a], last = offset[a + 1] - 1;
      if (loop[a]) {
        const int64_t middle = opposite(point, first, last);
        lines.candidate[first] = lines.candidate[middle] = 0;
        mark_far(point, first, middle, tolerance, lines.candidate);
        mark_far(point, middle, last, tolerance, lines.candidate);
      } else {
        mark_far(point, first, last, tolerance, lines.candidate);
      }
    }
  } else {
    limit = std::min(limit, 2 * tolerance * tolerance);
  }
  lines.run(static_cast<int64_t>(limit));

  Tensor out_offsets = empty({arcs + 1}, ScalarType::Long, points);
  auto* begin = mutable_data<int64_t>(out_offsets);
  std::vector<Point> out;
  begin[0] = 0;
  for (int64_t a = 0; a < arcs; ++a) {
    for (int64_t i = offset[a]; i < offset[a + 1]; ++i)
      if (lines.kept[i] && !(loop[a] && i + 1 == offset[a + 1])) out.push_back(point[i]);
    if (loop[a]) out.push_back(out[begin[a]]);
    begin[a + 1] = static_cast<int64_t>(out.size());
  }
  Tensor result = empty({begin[arcs], 2}, ScalarType::Int, points);
  std::copy(out.begin(), out.end(), reinterpret_cast<Point*>(mutable_data<int32_t>(result)));
  return {result, out_offsets};
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("simplify", TORCH_BOX(&dhvt::simplify)); }
