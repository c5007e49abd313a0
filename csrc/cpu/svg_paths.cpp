// Path data of segments that are painted one over the other. A segment that is painted later has its boundary right;
// the one below goes on underneath, so no background shows through where two segments meet. Which goes below which is
// chosen so that little is written again: again and again the segment whose other boundaries are shortest goes on top
// of the neighbour with which it shares most.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>
#include <queue>

#include "cpu/arcs.h"
#include "svg_paths.h"

namespace dhvt {
namespace {

constexpr double kMost = 1 << 30;  // of what is written: products of two differences fit int64
// Neighbours up to which a segment's priority is kept exact; with more, it may be an old one.
constexpr size_t kSmall = 64;
constexpr int64_t kHidden = 6;               // about the bytes of a boundary that is hidden
constexpr double kFlat = 0.1, kLines = 100;  // curves as lines: how far off, in pixels, and at most how many

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

// Draws darts that follow each other, and those that are hidden in another way where there is one. It has to know what
// is painted on top.
class Hider {
 public:
  Hider(const Map& map, const Writer& writer, const int64_t* offsets, const bool* opaque, int64_t height, int64_t width,
        int64_t segments, double scale)
      : map_(map),
        writer_(writer),
        opaque_(opaque),
        painted_(segments, 0),
        cover_(height, width, segments),
        detour_(cover_, scale) {
    const auto arcs = static_cast<int32_t>(map.side.size() / 2);
    flat_.reserve(2 * offsets[arcs]);
    flat_at_.resize(offsets[arcs]);
    for (int32_t a = 0; a < arcs; ++a) {
      flat_.push_back(writer.point(writer.knot(2 * a, 0)));
      flat_at_[writer.knot(2 * a, 0)] = flat_.size() - 1;
      for (int64_t i = 0; i < writer.pieces(2 * a); ++i) {
        writer.flatten(writer.knot(2 * a, i), [&](Point to) {
          cover_.add(flat_.back(), to, map.side[2 * a + 1], map.side[2 * a]);
          flat_.push_back(to);
        });
        flat_at_[writer.knot(2 * a, i + 1)] = flat_.size() - 1;
      }
    }
    cover_.finish();
  }

  void paint(int32_t segment) {
    painted_[segment] = 1;
    cover_.paint(segment);
  }
  // Not where there is no segment on the other side, nor at the bottom where that is not opaque: there the background
  // would show at the edge of what covers it.
  bool hidden(int32_t dart, int32_t segment, bool bottom) const {
    const int32_t other = map_.side[dart ^ 1];
    return other >= 0 && (opaque_[other] || !bottom) && (map_.side[dart] != segment || painted_[other]);
  }

  // Draws darts of the region of a segment, all of them hidden.
  void draw(Pen& pen, int32_t segment, const int32_t* darts, size_t count) {
    run_.clear();
    pieces_.clear();
    bool near = true;
    for (size_t k = 0; k < count; ++k) {
      const int32_t d = darts[k];
      const int side = map_.side[d] == segment ? -1 : painted_[map_.side[d ^ 1]] ? 0 : 1;
      for (int64_t i = 0; i < writer_.pieces(d); ++i) {
        int64_t at = flat_at_[writer_.knot(d, i)];
        const int64_t end = flat_at_[writer_.knot(d, i + 1)], step = at < end ? 1 : -1;
        for (;; at += step) {
          run_.add(flat_[at], side);
          near &= inside(flat_[at]);
          if (at == end) break;
        }
        pieces_.push_back({d, i, run_.last()});
      }
    }
    if (near)
      draw(pen, 0, pieces_.size(), 0);
    else  // what lies elsewhere is nothing that was traced
      for (const auto& piece : pieces_) writer_.draw(pen, piece.dart, piece.index);
  }

 private:
  struct Piece {
    int32_t dart;
    int64_t index;
    size_t end;  // in the run
  };

  bool inside(Point p) const {
    return -1 <= p.x && p.x <= cover_.width() + 1 && -1 <= p.y && p.y <= cover_.height() + 1;
  }
  // Pieces [first, last), the first of which begins at that point of the run: another way, or those of both halves.
  void draw(Pen& pen, size_t first, size_t last, size_t begin) {
    if (first == last) return;
    const auto& piece = pieces_[last - 1];
    const auto& places = detour_.find(run_, begin, piece.end, writer_.place(writer_.knot(piece.dart, piece.index + 1)));
    for (Place place : places) pen.line(place);
    if (!places.empty()) return;
    if (last - first == 1) return writer_.draw(pen, piece.dart, piece.index);
    const size_t middle = (first + last) / 2;
    draw(pen, first, middle, begin);
    draw(pen, middle, last, pieces_[middle - 1].end);
  }

  const Map& map_;
  const Writer& writer_;
  const bool* opaque_;
  std::vector<Point> flat_;       // all arcs as lines
  std::vector<size_t> flat_at_;   // [P]: where in it the ends of pieces are
  std::vector<uint8_t> painted_;  // opaque segments
  Cover cover_;
  Detour detour_;
  Run run_;
  std::vector<Piece> pieces_;
};

std::tuple<Tensor, Tensor, Tensor> svg_paths(const Tensor& any_points, const Tensor& any_offsets,
                                             const Tensor& any_left, const Tensor& any_right,
                                             const Tensor& any_ring_arcs, const Tensor& any_ring_offsets,
                                             const Tensor& any_opaque, bool curves, double scale, int64_t height,
                                             int64_t width) {
  check(any_points, "points [P,2]", ScalarType::Double, {-1, 2});
  check(any_left, "left [A]", ScalarType::Int, {-1});
  const int64_t arcs = any_left.size(0);
  check(any_right, "right [A]", ScalarType::Int, {arcs});
  check(any_offsets, "offsets [A+1]", ScalarType::Long, {arcs + 1});
  check(any_ring_arcs, "ring_arcs [S]", ScalarType::Int, {-1});
  check(any_ring_offsets, "ring_offsets [R+1]", ScalarType::Long, {-1});
  check(any_opaque, "opaque [K]", ScalarType::Bool, {-1});
  const Tensor points = dense(any_points), offsets = dense(any_offsets), left = dense(any_left),
               right = dense(any_right), ring_arcs = dense(any_ring_arcs), ring_offsets = dense(any_ring_offsets),
               opaque = dense(any_opaque);
  const auto* offset = data<int64_t>(offsets);
  STD_TORCH_CHECK(arcs < kMost && opaque.size(0) < kMost, "left [A], opaque [K]: expected less than 2^30");
  check_chains(offsets, points.size(0), [](int64_t) { return 1; });
  for (int64_t a = 0; a < arcs && curves; ++a)
    STD_TORCH_CHECK((offset[a + 1] - offset[a]) % 3 == 1, "offsets [A+1]: expected to rise by 3 n + 1 for curves");
  STD_TORCH_CHECK(std::isfinite(scale) && scale > 0, "scale: expected a finite number > 0; found ", scale);
  STD_TORCH_CHECK(0 <= height && height < kMost && 0 <= width && width < kMost,
                  "height, width: expected 0 to 2^30; found ", height, ", ", width);

  const bool hide = height > 0 && width > 0;
  const Map map(left, right, ring_arcs, ring_offsets, opaque.size(0));
  const Writer writer(data<double>(points), offset, arcs, curves, scale);
  const int64_t most = hide ? kHidden : INT64_MAX;
  std::vector<int64_t> price(arcs);
  std::string text;
  for (int64_t a = 0; a < arcs; ++a) {
    const auto dart = static_cast<int32_t>(2 * a);
    text.clear();
    Pen pen(text);
    pen.begin(writer.start(dart), true);
    const size_t before = text.size();
    const auto size = [&] { return static_cast<int64_t>(text.size() - before); };
    for (int64_t i = 0; i < writer.pieces(dart) && size() < most; ++i) writer.draw(pen, dart, i);
    pen.close();
    price[a] = std::min(size(), most);
  }

  std::optional<Hider> hider;
  if (hide) hider.emplace(map, writer, offset, data<bool>(opaque), height, width, opaque.size(0), scale);
  Layers layers(map, price, data<bool>(opaque), opaque.size(0));
  std::vector<uint8_t> seen(2 * arcs, 0);
  std::vector<std::string> paths;
  std::vector<int32_t> order, ring;
  layers.each([&](int32_t segment, const std::vector<int32_t>& darts, bool bottom) {
    std::string path;
    Pen pen(path);
    const auto hidden = [&](int32_t d) { return hider && hider->hidden(d, segment, bottom); };
    for (int32_t d : darts) seen[d] = 0;
    for (int32_t d : darts) {
      if (seen[d]) continue;
      ring.clear();
      for (int32_t dart = d; !seen[dart];) {
        seen[dart] = 1;
        ring.push_back(dart);
        dart = map.next[dart];
        while (layers.region(dart ^ 1) == segment) dart = map.next[dart ^ 1];
      }
      // It begins where what is hidden ends: a last line is drawn by closing.
      for (size_t i = 0; i < ring.size(); ++i)
        if (!hidden(ring[i]) && hidden(ring[(i ? i : ring.size()) - 1])) {
          std::rotate(ring.begin(), ring.begin() + i, ring.end());
          break;
        }
      pen.begin(writer.start(ring[0]), path.empty());
      for (size_t i = 0; i < ring.size();) {
        const size_t begin = i;
        while (i < ring.size() && hidden(ring[i])) ++i;
        if (begin < i)
          hider->draw(pen, segment, &ring[begin], i - begin);
        else
          writer.draw(pen, ring[i++]);
      }
      pen.close();
    }
    if (hider && data<bool>(opaque)[segment]) hider->paint(segment);
    paths.push_back(std::move(path));
    order.push_back(segment);
  });

  const auto count = static_cast<int64_t>(paths.size());
  Tensor text_offsets = empty({count + 1}, ScalarType::Long, points);
  Tensor segments = empty({count}, ScalarType::Int, points);
  auto* begin = mutable_data<int64_t>(text_offsets);
  begin[0] = 0;
  for (int64_t i = 0; i < count; ++i) {
    begin[i + 1] = begin[i] + static_cast<int64_t>(paths[count - 1 - i].size());
    mutable_data<int32_t>(segments)[i] = order[count - 1 - i];
  }
  Tensor out = empty({begin[count]}, ScalarType::Byte, points);
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(mutable_data<uint8_t>(out) + begin[i], paths[count - 1 - i].data(), paths[count - 1 - i].size());
  return {out, text_offsets, segments};
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("svg_paths", TORCH_BOX(&dhvt::svg_paths)); }
