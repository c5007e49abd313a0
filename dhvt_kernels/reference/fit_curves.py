"""Chains of points as lines and cubic Bezier curves. Points are complex numbers, x + i y."""

import math
from collections.abc import Callable
from functools import partial
from itertools import accumulate, pairwise

from torch import Tensor

WINDOW = 4  # points on either side that tell a direction
CORNER_COSINE = 0.64  # a turn by more than 50 degrees is a corner
STRAIGHT = 0.25  # sides that deviate less from lines meet where the lines do
REACH = 1.5  # and that is at most so far from the points beside it
ROUNDS = 4  # of fitting, and of projecting the points on the fit
CURVE_PRICE = 2.5  # a curve has to be so much longer than a line

Cubic = tuple[complex, complex, complex, complex]


def _dot(a: complex, b: complex) -> float:
    return a.imag * b.imag + a.real * b.real


def _cross(a: complex, b: complex) -> float:
    return a.real * b.imag - a.imag * b.real


def _norm(a: complex) -> float:
    return math.sqrt(_dot(a, a))


def _powers(p: Cubic) -> Cubic:
    """The factors of 1, t, t^2 and t^3."""
    b = 3 * (p[1] - p[0])
    return p[0], b, 3 * (p[2] - p[1]) - b, p[3] - p[0] - 3 * (p[2] - p[1])


def _at(powers: Cubic, t: float) -> complex:
    a, b, c, d = powers
    return a + t * (b + t * (c + t * d))


def _clamp(value: float, low: float, high: float) -> float:
    return low if value < low else high if high < value else value  # NaN stays NaN


def _line_through(points: list[complex]) -> tuple[complex, complex] | None:
    """Centre and direction of the points, where they lie on a line."""
    center = 0j
    for p in points:
        center += p
    center = 1.0 / len(points) * center
    yy = yx = xx = 0.0
    for p in points:
        v = p - center
        yy += v.imag * v.imag
        yx += v.imag * v.real
        xx += v.real * v.real
    half = 0.5 * (xx - yy)
    length = math.sqrt(half * half + yx * yx)
    # The eigenvector of the larger eigenvalue, from the better conditioned of two formulas.
    direction = complex(half + length, yx) if half > 0 else complex(yx, length - half)
    size = _norm(direction)
    if not size > 0:
        return None
    direction = 1 / size * direction
    if any(abs(_cross(direction, p - center)) > STRAIGHT for p in points):
        return None
    return center, direction


def _meet(before: list[complex], after: list[complex]) -> complex | None:
    """Where the lines through the points on both sides of a gap meet."""
    one, other = _line_through(before), _line_through(after)
    if one is None or other is None:
        return None
    (p, u), (q, v) = one, other
    sine = _cross(u, v)
    if abs(sine) < 0.5:
        return None
    found = p + _cross(q - p, v) / sine * u
    near = _norm(found - before[-1]) <= REACH and _norm(found - after[0]) <= REACH
    return found if near else None


def _with_corners(raw: list[complex], closed: bool) -> tuple[list[complex], list[bool]]:
    """Points, with those added in which two straight sides meet; and which are corners."""
    n = len(raw)
    gaps = n if closed else n - 1

    def side(first: int, last: int) -> list[complex]:
        return [raw[i % n] for i in range(first, last + 1) if closed or 0 <= i < n]

    cosine = [1.0] * gaps
    for g in range(gaps if n > 3 else 0):
        left, right = side(g - WINDOW + 1, g), side(g + 1, g + WINDOW)
        before, after = left[-1] - left[0], right[-1] - right[0]
        length = _norm(before) * _norm(after)
        cosine[g] = _dot(before, after) / length if length > 0 else 1.0

    points, corner = [], []
    for i, p in enumerate(raw):
        points.append(p)
        corner.append(False)
        if i >= gaps or cosine[i] >= CORNER_COSINE:
            continue
        near = [(i + j) % gaps if closed else i + j for j in range(-WINDOW + 1, WINDOW)]
        near = [g for g in near if 0 <= g < gaps and g != i]
        if not all(cosine[g] > cosine[i] or (cosine[g] == cosine[i] and g > i) for g in near):
            continue
        meeting = _meet(side(i - WINDOW + 1, i), side(i + 1, i + WINDOW))
        if meeting is None:
            corner[-1] = True
        else:
            points.append(meeting)
            corner.append(True)
    return points, corner


def _longest(begin: int, stop: int, fits: Callable[[int], object]) -> int:
    """The largest end that fits, by doubling and halving; begin + 1 always does."""
    good, step, bad = begin + 1, 2, stop + 1
    while good < stop:
        end = min(begin + 2 * step, stop)
        if not fits(end):
            bad = end
            break
        good = end
        step *= 2
    while bad - good > 1 and bad <= stop:
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good


class _Chain:
    def __init__(self, raw: list[complex], closed: bool, tolerance: float) -> None:
        self.closed, self.limit = closed, tolerance * tolerance
        self.points, self.corner = _with_corners(raw[:-1] if closed else raw, closed)
        if closed:
            # Start at a corner where there is one.
            start = self.corner.index(True) if True in self.corner else 0
            self.points = [*self.points[start:], *self.points[: start + 1]]
            self.corner = [*self.corner[start:], *self.corner[: start + 1]]
        else:
            self.corner[0] = self.corner[-1] = True
        self.last = len(self.points) - 1
        # Where pieces may meet.
        self.anchor = [
            p if corner else 0.25 * (self.point(i - 1) + 2 * p + self.point(i + 1))
            for i, (p, corner) in enumerate(zip(self.points, self.corner, strict=True))
        ]
        # The length of the chain up to each point.
        self.along = list(accumulate((_norm(b - a) for a, b in pairwise(self.points)), initial=0.0))

    def point(self, i: int) -> complex:
        if self.closed:
            return self.points[i + self.last if i < 0 else i - self.last if i > self.last else i]
        return self.points[min(max(i, 0), self.last)]

    def tangent(self, i: int) -> complex:
        """The direction of the curve at a point between pieces; at a corner, any."""
        if self.corner[i]:
            return 0j
        v = self.point(i + WINDOW - 1) - self.point(i - WINDOW + 1)
        return 1 / _norm(v) * v if _norm(v) > 0 else 0j

    def fit(self) -> list[complex]:
        """Control points: the first, then three for every piece; those of a line lie at its ends."""
        # Neither two lines nor one curve without a corner would enclose anything.
        corners = sum(self.corner[1:]) if self.closed else 3
        longest_line = max(self.last // 3, 1) if corners < 3 else self.last
        longest_curve = max(self.last // 2, 1) if corners < 1 else self.last
        out = [self.anchor[0]]
        begin = 0
        while begin < self.last:
            stop = begin + 1
            while stop < self.last and not self.corner[stop]:
                stop += 1
            end = _longest(begin, min(stop, begin + longest_line), partial(self.line, begin))
            piece = self.line(begin, end)
            bent = _longest(begin, min(stop, begin + longest_curve), partial(self.curve, begin))
            if bent - begin >= CURVE_PRICE * (end - begin) and (curve := self.curve(begin, bent)):
                piece, end = curve, bent
            assert piece is not None
            out += piece[1:]
            begin = end
        return out

    def line(self, begin: int, end: int) -> Cubic | None:
        a, b = self.anchor[begin], self.anchor[end]
        side = b - a
        square = _dot(side, side)
        if end - begin > 1 and not square > 0:
            return None
        for p in self.points[begin + 1 : end]:
            off, along = _cross(side, p - a), _dot(p - a, side)
            if off * off > self.limit * square or along < -square or along > 2 * square:
                return None
        return a, a, b, b

    def curve(self, begin: int, end: int) -> Cubic | None:
        """Least squares for the two inner control points, in rounds."""
        points = self.points[begin + 1 : end]
        if len(points) < 2:
            return self.line(begin, end)
        a, d = self.anchor[begin], self.anchor[end]
        along = [self.along[i] - self.along[begin + 1] for i in range(begin + 1, end)]
        first_length = _norm(points[0] - a)
        length = first_length + along[-1] + _norm(d - points[-1])
        if not length > 0:
            return None
        t = [(first_length + value) / length for value in along]
        start, finish = self.tangent(begin), self.tangent(end)
        previous = math.inf
        for _ in range(ROUNDS):
            handles = self.handles(points, t, begin, start, end, finish)
            if handles is None:
                return None
            curve = (a, a + handles[0], d + handles[1], d)
            first, second = curve[1] - a, curve[2] - d
            if not self.corner[begin] and _dot(first, start) < 0:
                return None
            if not self.corner[end] and _dot(second, finish) > 0:
                return None
            if _norm(first) > length or _norm(second) > length:
                return None
            powers = _powers(curve)
            worst = 0.0
            for value, p in zip(t, points, strict=True):
                off = _at(powers, value) - p
                worst = max(worst, _dot(off, off))
            if worst <= self.limit:
                return curve
            if worst > 9 * self.limit or worst > 0.95 * previous:
                return None
            previous = worst
            t = [_projected(powers, value, p) for value, p in zip(t, points, strict=True)]
        return None

    def handles(
        self, points: list[complex], t: list[float], begin: int, start: complex, end: int, finish: complex
    ) -> tuple[complex, complex] | None:
        """Offsets from the ends: free at a corner; elsewhere they have the direction of the tangent."""
        a, d = self.anchor[begin], self.anchor[end]
        s11 = s12 = s22 = 0.0
        r1 = r2 = 0j
        for value, p in zip(t, points, strict=True):
            s = 1 - value
            b1, b2 = 3 * s * s * value, 3 * s * value * value
            # The curve without handles is the ends' share.
            rest = p - a - value * value * (3 - 2 * value) * (d - a)
            s11 += b1 * b1
            s12 += b1 * b2
            s22 += b2 * b2
            r1 += b1 * rest
            r2 += b2 * rest
        if self.corner[begin] and self.corner[end]:
            det = s11 * s22 - s12 * s12
            if not det > 1e-12 * s11 * s22:
                return None
            return 1 / det * (s22 * r1 - s12 * r2), 1 / det * (s11 * r2 - s12 * r1)
        if not self.corner[begin] and not self.corner[end]:
            mixed = s12 * _dot(start, finish)
            det = s11 * s22 - mixed * mixed
            if not det > 1e-12 * s11 * s22:
                return None
            p1, p2 = _dot(r1, start), _dot(r2, finish)
            return (s22 * p1 - mixed * p2) / det * start, (s11 * p2 - mixed * p1) / det * finish
        # The equation of the free handle is put into that of the other.
        if self.corner[begin]:
            if not s11 > 0 or not (det := s22 - s12 * s12 / s11) > 1e-12 * s22:
                return None
            h2 = (_dot(r2, finish) - s12 / s11 * _dot(r1, finish)) / det * finish
            return 1 / s11 * (r1 - s12 * h2), h2
        if not s22 > 0 or not (det := s11 - s12 * s12 / s22) > 1e-12 * s11:
            return None
        h1 = (_dot(r1, start) - s12 / s22 * _dot(r2, start)) / det * start
        return h1, 1 / s22 * (r2 - s12 * h1)


def _projected(powers: Cubic, t: float, p: complex) -> float:
    """One step of Newton's method towards the nearest point of the curve."""
    _, b, c, d = powers
    off = _at(powers, t) - p
    first = b + t * (2 * c + 3 * t * d)
    second = 2 * c + 6 * t * d
    slope = _dot(first, first) + _dot(off, second)
    return _clamp(t - _dot(off, first) / slope, 0.0, 1.0) if slope > 0 else t


def fit_curves(points: Tensor, offsets: Tensor, closed: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Chain by chain; sums in the order of the points."""
    at = [complex(x, y) for y, x in points.tolist()]
    out: list[complex] = []
    ends = [0]
    for (first, end), loop in zip(pairwise(offsets.tolist()), closed.tolist(), strict=True):
        out += _Chain(at[first:end], loop, tolerance).fit()
        ends.append(len(out))
    return points.new_tensor([[p.imag, p.real] for p in out]).reshape(-1, 2), offsets.new_tensor(ends)
