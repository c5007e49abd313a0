// Path data of segments that are painted one over the other. A segment that is painted later has its boundary right;
// the one below goes on underneath, so no background shows through where two segments meet. Which goes below which is
// chosen so that little is written again.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "cpu/arcs.h"
#include "cpu/svg_detours.h"
#include "cpu/svg_layers.h"
#include "cpu/svg_pen.h"

namespace dhvt {
namespace {

constexpr int64_t kHidden = 6;  // about the bytes of a boundary that is hidden

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
