// Where the boundary of a segment may run instead beneath what is painted over it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

namespace dhvt {

// In units of the paths.
struct Place {
  int64_t x, y;
  bool operator==(const Place&) const = default;
};
inline Place operator-(Place a, Place b) { return {a.x - b.x, a.y - b.y}; }

// In pixels.
struct Point {
  double x, y;
  bool operator==(const Point&) const = default;
};

// The first pixel whose centre is not before a coordinate.
inline int64_t first_pixel(double at, int64_t size) {
  const double value = std::clamp(at - 0.5, 0.0, static_cast<double>(size));
  const auto whole = static_cast<int64_t>(value);
  return whole + (static_cast<double>(whole) < value);
}

// Calls cross(row, x, down) for every row of pixel centres that a line crosses: at the same x in both directions.
template <typename Cross>
void cross_rows(Point a, Point b, int64_t height, const Cross& cross) {
  const bool down = a.y < b.y;
  if (!down) std::swap(a, b);
  int64_t row = first_pixel(a.y, height);
  const int64_t end = first_pixel(b.y, height);
  if (row >= end) return;
  const double slope = (b.x - a.x) / (b.y - a.y);
  for (; row < end; ++row) cross(row, a.x + (row + 0.5 - a.y) * slope, down);
}

// The pixels whose centres lie below what is painted already.
class Cover {
 public:
  Cover(int64_t height, int64_t width, int64_t segments)
      : height_(height), width_(width), covered_(height * width, 0), begin_(segments + 1, 0) {}

  // A line of the outline between two segments.
  void add(Point a, Point b, int32_t left, int32_t right) {
    cross_rows(a, b, height_, [&](int64_t row, double x, bool down) {
      crossings_.push_back({row, x, down ? right : left, down ? left : right});
    });
  }
  // After all lines. Where outlines cross each other there is no segment.
  void finish() {
    // By rows first: each has few.
    std::vector<int64_t> end(height_ + 1, 0);
    for (const auto& crossing : crossings_) ++end[crossing.row + 1];
    for (int64_t row = 0; row < height_; ++row) end[row + 1] += end[row];
    std::vector<Crossing> sorted(crossings_.size());
    for (const auto& crossing : crossings_) sorted[end[crossing.row]++] = crossing;
    for (int64_t row = 0; row < height_; ++row)
      std::sort(sorted.begin() + (row ? end[row - 1] : 0), sorted.begin() + end[row]);
    crossings_.swap(sorted);
    each_run([&](int32_t segment, Pixels) { ++begin_[segment + 1]; });
    for (size_t i = 1; i < begin_.size(); ++i) begin_[i] += begin_[i - 1];
    runs_.resize(begin_.back());
    auto next = begin_;
    each_run([&](int32_t segment, Pixels run) { runs_[next[segment]++] = run; });
    std::vector<Crossing>().swap(crossings_);
  }
  void paint(int32_t segment) {
    for (int64_t i = begin_[segment]; i < begin_[segment + 1]; ++i)
      std::fill_n(covered_.begin() + runs_[i].first, runs_[i].size, 1);
  }

  // Whether pixels [begin, end) of a row are covered.
  bool covers(int64_t row, int64_t begin, int64_t end) const {
    return begin >= end || !std::memchr(covered_.data() + row * width_ + begin, 0, end - begin);
  }
  // Whether all pixels are whose centres are, in x and in y, no farther than the margin from a line.
  bool covers(Point a, Point b, double margin) const {
    if (a.y > b.y) std::swap(a, b);
    const bool level = a.y == b.y;
    const double slope = level ? 0 : (b.x - a.x) / (b.y - a.y);
    const int64_t end = first_pixel(b.y + margin, height_);
    for (int64_t row = first_pixel(a.y - margin, height_); row < end; ++row) {
      const double top = std::max(a.y, row + 0.5 - margin), bottom = std::min(b.y, row + 0.5 + margin);
      const double x = a.x + (top - a.y) * slope, to = level ? b.x : a.x + (bottom - a.y) * slope;
      if (!covers(row, first_pixel(std::min(x, to) - margin, width_), first_pixel(std::max(x, to) + margin, width_)))
        return false;
    }
    return true;
  }

  int64_t height() const { return height_; }
  int64_t width() const { return width_; }

 private:
  struct Crossing {
    int64_t row;
    double x;
    int32_t west, east;  // segments
    bool operator<(const Crossing& o) const { return std::tie(x, west, east) < std::tie(o.x, o.west, o.east); }
  };
  struct Pixels {
    int64_t first, size;
  };
  template <typename Body>
  void each_run(const Body& body) const {
    for (size_t i = 0; i + 1 < crossings_.size(); ++i) {
      const auto &from = crossings_[i], &to = crossings_[i + 1];
      if (from.row != to.row || from.east < 0 || from.east != to.west) continue;
      const int64_t begin = first_pixel(from.x, width_), end = first_pixel(to.x, width_);
      if (begin < end) body(from.east, {from.row * width_ + begin, end - begin});
    }
  }

  int64_t height_, width_;
  std::vector<uint8_t> covered_;  // [H,W]
  std::vector<int64_t> begin_;    // [K+1]: the runs of each segment
  std::vector<Pixels> runs_;
  std::vector<Crossing> crossings_;
};

// A part of a region's boundary that is hidden.
class Run {
 public:
  void clear() {
    points_.clear();
    length_.clear();
    side_.clear();
  }
  // side: where what covers it lies; 1 to the right, -1 to the left, 0 on both sides.
  void add(Point to, int side) {
    double length = 0;
    if (!points_.empty()) {
      const double x = to.x - points_.back().x, y = to.y - points_.back().y;
      length = length_.back() + std::sqrt(x * x + y * y);
      if (length == length_.back()) return;
    }
    points_.push_back(to);
    length_.push_back(length);
    side_.push_back(side);
  }
  size_t last() const { return points_.size() - 1; }
  Point operator[](size_t i) const { return points_[i]; }
  double length(size_t i) const { return length_[i]; }

  // The point at a length that between points `begin` and `end` is reached, and moved so far under what covers it.
  Point beside(double at, double depth, size_t begin, size_t end) const {
    const auto next = std::upper_bound(length_.begin() + begin + 1, length_.begin() + end, at);
    const size_t i = next - length_.begin();
    const Point a = points_[i - 1], b = points_[i];
    const double piece = length_[i] - length_[i - 1], share = (at - length_[i - 1]) / piece,
                 by = depth * side_[i] / piece;
    return {a.x + (b.x - a.x) * share - (b.y - a.y) * by, a.y + (b.y - a.y) * share + (b.x - a.x) * by};
  }

 private:
  std::vector<Point> points_;
  std::vector<double> length_;
  std::vector<int> side_;  // of the piece that ends at the point
};

// A way of few corners, from one point of a run to a later one, for which everything that changes is covered.
class Detour {
 public:
  Detour(const Cover& cover, double scale) : cover_(cover), scale_(scale) {}

  // The places after the first point, the last of them `to`; none where there is no such way.
  const std::vector<Place>& find(const Run& run, size_t begin, size_t end, Place to) {
    run_ = &run, begin_ = begin, end_ = end;
    places_.clear();
    const bool closed = run[begin] == run[end];
    if (run.length(end) - run.length(begin) < kShortest) return places_;
    if (!closed && straight(to)) return places_;
    if (bent(1.5, 0.5, to)) return places_;
    if (bent(8, 1, to)) return places_;
    places_.clear();
    return places_;
  }

 private:
  static constexpr double kFree = 2.5;  // pixels at both ends where a way need not be covered, to meet what is seen
  static constexpr double kShortest = 10.0;  // pixels of a run: of shorter ones too little would have to be covered
  static constexpr size_t kCorners = 4;

  bool straight(Place to) {
    margin_ = 1;
    places_.assign(1, to);
    return clear(run_->length(begin_), run_->length(end_), (*run_)[begin_], (*run_)[end_]) && between();
  }
  // Beside the run, so deep under what covers it; corners are added in the middle of what is not covered.
  bool bent(double depth, double margin, Place to) {
    depth_ = depth, margin_ = margin;
    places_.clear();
    const double low = run_->length(begin_), high = run_->length(end_), inset = depth * 1.25;
    const Point first = (*run_)[begin_], last = (*run_)[end_];
    bool found;
    if (margin < 1 || 2 * inset >= high - low) {
      const double middle = (low + high) / 2;
      const Place at = corner(middle);
      found = split(low, middle, first, point(at), at) && split(middle, high, point(at), last, to);
    } else {
      const Place a = corner(low + inset), b = corner(high - inset);
      found = split(low, low + inset, first, point(a), a) && split(low + inset, high - inset, point(a), point(b), b) &&
              split(high - inset, high, point(b), last, to);
    }
    return found && between();
  }
  bool split(double low, double high, Point from, Point to, Place place) {
    if (clear(low, high, from, to)) {
      places_.push_back(place);
      return true;
    }
    if (high - low < 2 * depth_ || places_.size() >= kCorners) return false;
    const double middle = (low + high) / 2;
    const Place at = corner(middle);
    return cover_.covers(point(at), point(at), margin_) && split(low, middle, from, point(at), at) &&
           split(middle, high, point(at), to, place);
  }
  // Whether the line is covered that replaces the run from one length to another.
  bool clear(double low, double high, Point from, Point to) const {
    const double x = to.x - from.x, y = to.y - from.y, length = std::sqrt(x * x + y * y);
    const double begin = low == run_->length(begin_) ? kFree : 0;
    const double end = high == run_->length(end_) ? length - kFree : length;
    if (begin > end) return true;
    if (length == 0) return cover_.covers(from, to, margin_);
    const double a = begin / length, b = end / length;
    return cover_.covers({from.x + a * x, from.y + a * y}, {from.x + b * x, from.y + b * y}, margin_);
  }
  // Whether all that the way and the run enclose is covered.
  bool between() {
    turns_.clear();
    const auto add = [&](Point a, Point b) {
      cross_rows(a, b, cover_.height(), [&](int64_t row, double x, bool down) {
        turns_.push_back(row << 32 | first_pixel(x, cover_.width()) << 1 | down);
      });
    };
    for (size_t i = begin_; i < end_; ++i) add((*run_)[i], (*run_)[i + 1]);
    Point from = (*run_)[begin_];
    for (Place place : places_) {
      add(point(place), from);
      from = point(place);
    }
    std::sort(turns_.begin(), turns_.end());
    int winding = 0;
    const auto pixel = [](int64_t turn) { return (turn & 0xffffffff) >> 1; };
    for (size_t i = 0; i + 1 < turns_.size(); ++i) {
      winding += turns_[i] & 1 ? 1 : -1;
      if (winding && !cover_.covers(turns_[i] >> 32, pixel(turns_[i]), pixel(turns_[i + 1]))) return false;
    }
    return true;
  }
  Point point(Place at) const { return {at.x / scale_, at.y / scale_}; }
  Place corner(double at) const {
    const Point to = run_->beside(at, depth_, begin_, end_);
    return {std::llround(std::clamp(to.x, 0.0, static_cast<double>(cover_.width())) * scale_),
            std::llround(std::clamp(to.y, 0.0, static_cast<double>(cover_.height())) * scale_)};
  }

  const Cover& cover_;
  const double scale_;
  const Run* run_ = nullptr;
  size_t begin_ = 0, end_ = 0;
  double depth_ = 0, margin_ = 0;
  std::vector<Place> places_;
  std::vector<int64_t> turns_;  // row, first pixel to the east, and whether downwards
};

}  // namespace dhvt
