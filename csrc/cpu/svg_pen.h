// Path data as text, and the outlines that are written so.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "common.h"
#include "cpu/svg_detours.h"

namespace dhvt {

constexpr double kMost = 1 << 30;            // of what is written: products of two differences fit int64
constexpr double kFlat = 0.1, kLines = 100;  // curves as lines: how far off, in pixels, and at most how many

// Path data in whole numbers: relative commands, repeated letters and needless separators left out.
class Pen {
 public:
  explicit Pen(std::string& text) : text_(text) {}

  void begin(Place at, bool first) {
    finish_line();
    const Place by = first ? at : at - here_;
    command(first ? 'M' : 'm');
    numbers({by.x, by.y});
    // Pairs after a move are lines.
    letter_ = first ? 'L' : 'l';
    here_ = start_ = at;
  }
  void line(Place to) {
    const Place by = to - here_;
    if (by.x == 0 && by.y == 0) return;
    // Straight on: one line.
    if (pending_ && run_.x * by.y == run_.y * by.x && run_.x * by.x + run_.y * by.y > 0 && (by.x == 0 || by.y == 0)) {
      run_ = {run_.x + by.x, run_.y + by.y};
    } else {
      finish_line();
      run_ = by;
      pending_ = true;
    }
    here_ = to;
  }
  void curve(Place a, Place b, Place to) {
    if (a == here_ && b == to) return line(to);
    finish_line();
    command('c');
    numbers({a.x - here_.x, a.y - here_.y, b.x - here_.x, b.y - here_.y, to.x - here_.x, to.y - here_.y});
    here_ = to;
  }
  void close() {
    pending_ = false;  // a last line back to the start is drawn by closing
    command('z');
    here_ = start_;
  }

 private:
  void finish_line() {
    if (!pending_) return;
    pending_ = false;
    if (run_.y == 0) {
      command('h');
      numbers({run_.x});
    } else if (run_.x == 0) {
      command('v');
      numbers({run_.y});
    } else {
      command('l');
      numbers({run_.x, run_.y});
    }
  }
  void command(char letter) {
    if (letter == letter_ && letter != 'z') return;
    text_.push_back(letter);
    letter_ = letter;
    separate_ = false;
  }
  void numbers(std::initializer_list<int64_t> values) {
    for (int64_t value : values) {
      if (separate_ && value >= 0) text_.push_back(' ');
      char digits[24];
      const auto end = std::to_chars(digits, digits + sizeof(digits), value).ptr;
      text_.append(digits, end);
      separate_ = true;
    }
  }

  std::string& text_;
  Place here_{0, 0}, start_{0, 0}, run_{0, 0};
  char letter_ = 0;
  bool pending_ = false, separate_ = false;
};

class Writer {
 public:
  Writer(const double* points, const int64_t* offsets, int64_t arcs, bool curves, double scale)
      : offsets_(offsets), stride_(curves ? 3 : 1), scale_(scale) {
    places_.resize(offsets[arcs]);
    for (int64_t i = 0; i < 2 * offsets[arcs]; ++i)
      STD_TORCH_CHECK(std::abs(scale * points[i]) < kMost,
                      "points [P,2]: expected numbers below 2^30, times the scale");
    for (int64_t i = 0; i < offsets[arcs]; ++i)
      places_[i] = {std::llround(scale * points[2 * i + 1]), std::llround(scale * points[2 * i])};
  }
  // Lines or curves of a dart, and the point where one of them begins.
  int64_t pieces(int32_t dart) const { return (offsets_[dart / 2 + 1] - offsets_[dart / 2] - 1) / stride_; }
  int64_t knot(int32_t dart, int64_t piece) const {
    return dart & 1 ? offsets_[dart / 2 + 1] - 1 - stride_ * piece : offsets_[dart / 2] + stride_ * piece;
  }
  Place place(int64_t i) const { return places_[i]; }
  Place start(int32_t dart) const { return places_[knot(dart, 0)]; }

  void draw(Pen& pen, int32_t dart, int64_t piece) const {
    const int64_t step = dart & 1 ? -1 : 1;
    const Place* p = &places_[knot(dart, piece)];
    if (stride_ == 3)
      pen.curve(p[step], p[2 * step], p[3 * step]);
    else
      pen.line(p[step]);
  }
  void draw(Pen& pen, int32_t dart) const {
    for (int64_t i = 0; i < pieces(dart); ++i) draw(pen, dart, i);
  }

  // Calls add(point) along the piece that begins at point i of an arc, without its beginning.
  template <typename Add>
  void flatten(int64_t i, const Add& add) const {
    const Place* p = &places_[i];
    if (stride_ == 3 && !(p[0] == p[1] && p[2] == p[3])) {
      const Point a = point(i), b = point(i + 1), c = point(i + 2), d = point(i + 3);
      const double x = std::max(std::abs(a.x - 2 * b.x + c.x), std::abs(b.x - 2 * c.x + d.x));
      const double y = std::max(std::abs(a.y - 2 * b.y + c.y), std::abs(b.y - 2 * c.y + d.y));
      const double lines = std::min(std::ceil(std::sqrt(0.75 / kFlat * (x + y))), kLines);
      for (double k = 1; k < lines; ++k) {
        const double t = k / lines, s = 1 - t, u = 3 * s * t, sss = s * s * s, sst = u * s, stt = u * t,
                     ttt = t * t * t;
        add(Point{sss * a.x + sst * b.x + stt * c.x + ttt * d.x, sss * a.y + sst * b.y + stt * c.y + ttt * d.y});
      }
    }
    add(point(i + stride_));
  }
  Point point(int64_t i) const { return {places_[i].x / scale_, places_[i].y / scale_}; }

 private:
  const int64_t* offsets_;
  const int64_t stride_;
  const double scale_;
  std::vector<Place> places_;
};

}  // namespace dhvt
