// Chains of points as few lines and cubic Bezier curves: corners first, then piece by piece the longest that stays
// within the tolerance. One task per chain.
#include <algorithm>
#include <array>
#include <cmath>

#include "cpu/arcs.h"

namespace dhvt {
namespace {

struct Vec {
  double y, x;
};
Vec operator+(Vec a, Vec b) { return {a.y + b.y, a.x + b.x}; }
Vec operator-(Vec a, Vec b) { return {a.y - b.y, a.x - b.x}; }
Vec operator*(double s, Vec a) { return {s * a.y, s * a.x}; }
double dot(Vec a, Vec b) { return a.y * b.y + a.x * b.x; }
double cross(Vec a, Vec b) { return a.x * b.y - a.y * b.x; }
double norm(Vec a) { return std::sqrt(dot(a, a)); }

using Cubic = std::array<Vec, 4>;

// A cubic by its powers of t.
struct Powers {
  Vec a, b, c, d;

  explicit Powers(const Cubic& p)
      : a(p[0]), b(3 * (p[1] - p[0])), c(3 * (p[2] - p[1]) - b), d(p[3] - p[0] - 3 * (p[2] - p[1])) {}
  Vec at(double t) const { return a + t * (b + t * (c + t * d)); }
  Vec first(double t) const { return b + t * (2 * c + 3 * t * d); }
  Vec second(double t) const { return 2 * c + 6 * t * d; }
};

constexpr int64_t kWindow = 4;          // points on either side that tell a direction
constexpr double kCornerCosine = 0.64;  // a turn by more than 50 degrees is a corner
constexpr double kStraight = 0.25;      // sides that deviate less from lines meet where the lines do
constexpr double kReach = 1.5;          // and that is at most so far from the points beside it
constexpr int kRounds = 4;              // of fitting, and of projecting the points on the fit
constexpr double kCurvePrice = 2.5;     // a curve has to be so much longer than a line

class Chain {
 public:
  Chain(const double* values, int64_t count, bool closed, double tolerance)
      : closed_(closed), limit_(tolerance * tolerance) {
    std::vector<Vec> raw(count);
    for (int64_t i = 0; i < count; ++i) raw[i] = {values[2 * i], values[2 * i + 1]};
    if (closed_) raw.pop_back();
    find_corners(raw);
    if (closed_) {
      // Start at a corner where there is one.
      const auto first = std::find(corner_.begin(), corner_.end(), 1) - corner_.begin();
      const auto start = first == static_cast<int64_t>(corner_.size()) ? 0 : first;
      std::rotate(points_.begin(), points_.begin() + start, points_.end());
      std::rotate(corner_.begin(), corner_.begin() + start, corner_.end());
      points_.push_back(points_[0]);
      corner_.push_back(corner_[0]);
    } else {
      corner_.front() = corner_.back() = 1;
    }
    anchor_ = points_;
    const auto last = static_cast<int64_t>(points_.size()) - 1;
    for (int64_t i = 0; i <= last; ++i)
      if (!corner_[i]) anchor_[i] = 0.25 * (point(i - 1) + 2 * point(i) + point(i + 1));
    along_.resize(points_.size());
    for (int64_t i = 1; i <= last; ++i) along_[i] = along_[i - 1] + norm(points_[i] - points_[i - 1]);
  }

  // Control points: the first, then three for every piece; those of a line lie at its ends.
  std::vector<Vec> fit() {
    std::vector<Vec> out{anchor_[0]};
    const auto last = static_cast<int64_t>(points_.size()) - 1;
    // Neither two lines nor one curve without a corner would enclose anything.
    const auto corners = closed_ ? std::count(corner_.begin() + 1, corner_.end(), 1) : 3;
    const int64_t longest_line = corners < 3 ? std::max<int64_t>(last / 3, 1) : last;
    const int64_t longest_curve = corners < 1 ? std::max<int64_t>(last / 2, 1) : last;
    for (int64_t begin = 0, stop = 0; begin < last;) {
      if (stop <= begin) stop = begin + 1;
      while (stop < last && !corner_[stop]) ++stop;
      int64_t end =
          longest(begin, begin, std::min(stop, begin + longest_line), [&](int64_t to) { return fits_line(begin, to); });
      Cubic piece{anchor_[begin], anchor_[begin], anchor_[end], anchor_[end]}, fitted, curve;
      const auto worth = begin + static_cast<int64_t>(std::ceil(kCurvePrice * static_cast<double>(end - begin)));
      const int64_t bent = longest(begin, worth, std::min(stop, begin + longest_curve), [&](int64_t to) {
        if (!fits_curve(begin, to, fitted)) return false;
        curve = fitted;
        return true;
      });
      if (bent >= worth) {
        piece = curve;
        end = bent;
      }
      out.insert(out.end(), {piece[1], piece[2], piece[3]});
      begin = end;
    }
    return out;
  }

 private:
  int64_t wrapped(int64_t i) const {
    const auto last = static_cast<int64_t>(points_.size()) - 1;
    return i < 0 ? i + last : i > last ? i - last : i;
  }
  Vec point(int64_t i) const { return points_[closed_ ? wrapped(i) : std::clamp<int64_t>(i, 0, points_.size() - 1)]; }

  // Corners lie between points. Where two straight sides meet in one, it becomes a point of its own.
  void find_corners(const std::vector<Vec>& raw) {
    const auto n = static_cast<int64_t>(raw.size()), gaps = closed_ ? n : n - 1;
    const auto get = [&](int64_t i) { return raw[closed_ ? (i % n + n) % n : std::clamp<int64_t>(i, 0, n - 1)]; };
    const auto sides = [&](int64_t g) {
      return std::array<int64_t, 2>{closed_ ? g - kWindow + 1 : std::max<int64_t>(g - kWindow + 1, 0),
                                    closed_ ? g + kWindow : std::min<int64_t>(g + kWindow, n - 1)};
    };
    std::vector<double> cosine(std::max<int64_t>(gaps, 0), 1);
    if (n > 3)
      for (int64_t g = 0; g < gaps; ++g) {
        const auto [from, to] = sides(g);
        const Vec before = get(g) - get(from), after = get(to) - get(g + 1);
        const double length = norm(before) * norm(after);
        cosine[g] = length > 0 ? dot(before, after) / length : 1;
      }
    for (int64_t i = 0; i < n; ++i) {
      points_.push_back(raw[i]);
      corner_.push_back(0);
      if (i >= gaps || cosine[i] >= kCornerCosine) continue;
      bool sharpest = true;
      for (int64_t j = -kWindow + 1; j < kWindow && sharpest; ++j) {
        const int64_t other = closed_ ? ((i + j) % gaps + gaps) % gaps : i + j;
        if (other < 0 || other >= gaps || other == i) continue;
        sharpest = cosine[other] > cosine[i] || (cosine[other] == cosine[i] && other > i);
      }
      if (!sharpest) continue;
      const auto [from, to] = sides(i);
      Vec meeting;
      if (meet(get, from, i, i + 1, to, meeting)) {
        points_.push_back(meeting);
        corner_.push_back(1);
      } else {
        corner_.back() = 1;
      }
    }
  }

  // Where the lines through the points [a, b] and [c, d] meet.
  template <typename Get>
  static bool meet(const Get& get, int64_t a, int64_t b, int64_t c, int64_t d, Vec& out) {
    Vec p, u, q, v;
    if (!line_through(get, a, b, p, u) || !line_through(get, c, d, q, v)) return false;
    const double sine = cross(u, v);
    if (std::abs(sine) < 0.5) return false;
    out = p + (cross(q - p, v) / sine) * u;
    return norm(out - get(b)) <= kReach && norm(out - get(c)) <= kReach;
  }

  template <typename Get>
  static bool line_through(const Get& get, int64_t a, int64_t b, Vec& center, Vec& direction) {
    center = {0, 0};
    for (int64_t i = a; i <= b; ++i) center = center + get(i);
    center = (1.0 / static_cast<double>(b - a + 1)) * center;
    double yy = 0, yx = 0, xx = 0;
    for (int64_t i = a; i <= b; ++i) {
      const Vec v = get(i) - center;
      yy += v.y * v.y;
      yx += v.y * v.x;
      xx += v.x * v.x;
    }
    const double half = 0.5 * (xx - yy), length = std::sqrt(half * half + yx * yx);
    // The eigenvector of the larger eigenvalue, from the better conditioned of two formulas.
    direction = half > 0 ? Vec{yx, half + length} : Vec{length - half, yx};
    const double size = norm(direction);
    if (!(size > 0)) return false;
    direction = (1 / size) * direction;
    for (int64_t i = a; i <= b; ++i)
      if (std::abs(cross(direction, get(i) - center)) > kStraight) return false;
    return true;
  }

  // The largest end for which fits(end) holds, by doubling and halving; begin + 1 holds always. Which one below
  // `worth` does not matter.
  template <typename Fits>
  static int64_t longest(int64_t begin, int64_t worth, int64_t stop, const Fits& fits) {
    int64_t good = begin + 1, step = 2, bad = stop + 1;
    while (good < stop && worth < bad) {
      const int64_t end = std::min(begin + 2 * step, stop);
      if (!fits(end)) {
        bad = end;
        break;
      }
      good = end;
      step *= 2;
    }
    while (bad - good > 1 && worth < bad && bad <= stop) {
      const int64_t middle = (good + bad) / 2;
      (fits(middle) ? good : bad) = middle;
    }
    return good;
  }

  bool fits_line(int64_t begin, int64_t end) const {
    const Vec a = anchor_[begin], side = anchor_[end] - a;
    const double square = dot(side, side);
    if (end - begin > 1 && !(square > 0)) return false;
    for (int64_t i = begin + 1; i < end; ++i) {
      const double off = cross(side, points_[i] - a);
      if (off * off > limit_ * square) return false;
      const double along = dot(points_[i] - a, side);
      if (along < -square || along > 2 * square) return false;
    }
    return true;
  }

  // The direction of the curve at a point between pieces.
  Vec tangent(int64_t i) const {
    const Vec v = point(i + kWindow - 1) - point(i - kWindow + 1);
    const double size = norm(v);
    return size > 0 ? (1 / size) * v : Vec{0, 0};
  }

  // Least squares for the two inner control points. At a corner, a handle is free; elsewhere it has the tangent's
  // direction.
  bool fits_curve(int64_t begin, int64_t end, Cubic& out) const {
    const int64_t count = end - begin - 1;
    const Vec a = anchor_[begin], d = anchor_[end];
    if (count < 2) {
      out = {a, a, d, d};
      return fits_line(begin, end);
    }
    std::vector<double>& t = parameters_;
    t.resize(count);
    const double first_length = norm(points_[begin + 1] - a), *along = &along_[begin + 1];
    const double length = first_length + (along[count - 1] - along[0]) + norm(d - points_[end - 1]);
    if (!(length > 0)) return false;
    for (int64_t i = 0; i < count; ++i) t[i] = (first_length + (along[i] - along[0])) / length;
    const bool free_start = corner_[begin], free_end = corner_[end];
    const Vec start = free_start ? Vec{0, 0} : tangent(begin), finish = free_end ? Vec{0, 0} : tangent(end);
    double previous = INFINITY;
    for (int round = 0; round < kRounds; ++round) {
      if (!solve(begin, count, a, d, free_start, start, free_end, finish, out)) return false;
      const Vec first = out[1] - a, second = out[2] - d;
      if (!free_start && dot(first, start) < 0) return false;
      if (!free_end && dot(second, finish) > 0) return false;
      if (norm(first) > length || norm(second) > length) return false;
      const Powers curve(out);
      const double most = std::min(9 * limit_, 0.95 * previous);
      double worst = 0;
      for (int64_t i = 0; i < count; ++i) {
        const Vec off = curve.at(t[i]) - points_[begin + 1 + i];
        worst = std::max(worst, dot(off, off));
        if (worst > most && worst > limit_) return false;
      }
      if (worst <= limit_) return true;
      previous = worst;
      project(begin, count, curve);
    }
    return false;
  }

  // One step of Newton's method for each parameter.
  void project(int64_t begin, int64_t count, const Powers& curve) const {
    for (int64_t i = 0; i < count; ++i) {
      double& t = parameters_[i];
      const Vec off = curve.at(t) - points_[begin + 1 + i], first = curve.first(t), second = curve.second(t);
      const double slope = dot(first, first) + dot(off, second);
      if (slope > 0) t = std::clamp(t - dot(off, first) / slope, 0.0, 1.0);
    }
  }

  // Unknowns: y and x of each free handle, the length of each other one.
  bool solve(int64_t begin, int64_t count, Vec a, Vec d, bool free_start, Vec start, bool free_end, Vec finish,
             Cubic& out) const {
    double s11 = 0, s12 = 0, s22 = 0;
    Vec r1{0, 0}, r2{0, 0};
    for (int64_t i = 0; i < count; ++i) {
      const double t = parameters_[i], s = 1 - t;
      const double b1 = 3 * s * s * t, b2 = 3 * s * t * t;
      // Handles are offsets from the ends: the curve without them is the ends' share.
      const Vec rest = points_[begin + 1 + i] - a - t * t * (3 - 2 * t) * (d - a);
      s11 += b1 * b1;
      s12 += b1 * b2;
      s22 += b2 * b2;
      r1 = r1 + b1 * rest;
      r2 = r2 + b2 * rest;
    }
    Vec h1, h2;
    if (free_start && free_end) {
      const double det = s11 * s22 - s12 * s12;
      if (!(det > 1e-12 * s11 * s22)) return false;
      h1 = (1 / det) * (s22 * r1 - s12 * r2);
      h2 = (1 / det) * (s11 * r2 - s12 * r1);
    } else if (!free_start && !free_end) {
      const double mixed = s12 * dot(start, finish), det = s11 * s22 - mixed * mixed;
      if (!(det > 1e-12 * s11 * s22)) return false;
      const double p = dot(r1, start), q = dot(r2, finish);
      h1 = ((s22 * p - mixed * q) / det) * start;
      h2 = ((s11 * q - mixed * p) / det) * finish;
    } else if (free_start) {
      // h1 = (r1 - s12 h2) / s11, put into the equation of h2.
      const double det = s22 - s12 * s12 / s11;
      if (!(s11 > 0) || !(det > 1e-12 * s22)) return false;
      h2 = ((dot(r2, finish) - s12 / s11 * dot(r1, finish)) / det) * finish;
      h1 = (1 / s11) * (r1 - s12 * h2);
    } else {
      const double det = s11 - s12 * s12 / s22;
      if (!(s22 > 0) || !(det > 1e-12 * s11)) return false;
      h1 = ((dot(r1, start) - s12 / s22 * dot(r2, start)) / det) * start;
      h2 = (1 / s22) * (r2 - s12 * h1);
    }
    out = {a, a + h1, d + h2, d};
    return true;
  }

  const bool closed_;
  const double limit_;
  std::vector<Vec> points_, anchor_;  // anchor: where pieces may meet
  std::vector<double> along_;         // the length of the chain up to each point
  std::vector<uint8_t> corner_;
  mutable std::vector<double> parameters_;
};

std::tuple<Tensor, Tensor> fit_curves(const Tensor& any_points, const Tensor& any_offsets, const Tensor& any_closed,
                                      double tolerance) {
  check(any_points, "points [P,2]", ScalarType::Double, {-1, 2});
  check(any_offsets, "offsets [A+1]", ScalarType::Long, {-1});
  const int64_t arcs = any_offsets.size(0) - 1;
  STD_TORCH_CHECK(arcs >= 0, "offsets [A+1]: expected at least one");
  check(any_closed, "closed [A]", ScalarType::Bool, {arcs});
  STD_TORCH_CHECK(tolerance >= 0, "tolerance: expected at least 0; found ", tolerance);
  const Tensor points = dense(any_points), offsets = dense(any_offsets), closed = dense(any_closed);
  const auto* point = data<double>(points);
  const auto* offset = data<int64_t>(offsets);
  const auto* loop = data<bool>(closed);
  check_chains(offsets, points.size(0), [](int64_t) { return 2; });
  std::vector<std::vector<Vec>> fitted(arcs);
  parallel_chains(offset, arcs, [&](int64_t a) {
    fitted[a] = Chain(point + 2 * offset[a], offset[a + 1] - offset[a], loop[a], tolerance).fit();
  });
  Tensor out_offsets = empty({arcs + 1}, ScalarType::Long, points);
  auto* begin = mutable_data<int64_t>(out_offsets);
  begin[0] = 0;
  for (int64_t a = 0; a < arcs; ++a) begin[a + 1] = begin[a] + static_cast<int64_t>(fitted[a].size());
  Tensor out = empty({begin[arcs], 2}, ScalarType::Double, points);
  for (int64_t a = 0; a < arcs; ++a)
    std::copy(fitted[a].begin(), fitted[a].end(), reinterpret_cast<Vec*>(mutable_data<double>(out)) + begin[a]);
  return {out, out_offsets};
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("fit_curves", TORCH_BOX(&dhvt::fit_curves)); }
