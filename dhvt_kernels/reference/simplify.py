"""Arcs with fewer points: the smallest triangle goes first, and only where no other point lies in it."""

import heapq
from itertools import pairwise

from torch import Tensor

Point = tuple[int, int]


def _cross(a: Point, b: Point, c: Point) -> int:
    """Twice the area of a triangle, positive where it runs clockwise in the picture."""
    return (b[1] - a[1]) * (c[0] - a[0]) - (b[0] - a[0]) * (c[1] - a[1])


def _farthest(at: list[Point], first: int, last: int, tolerance: float) -> int | None:
    """The point between two others that is farthest from their line, if it is farther away than the tolerance."""
    (ay, ax), (by, bx) = at[first], at[last]
    dy, dx = float(by - ay), float(bx - ax)
    square = dy * dy + dx * dx
    most, found = tolerance * tolerance, None
    for i in range(first + 1, last):
        py, px = float(at[i][0] - ay), float(at[i][1] - ax)
        along = min(max((py * dy + px * dx) / square, 0.0), 1.0) if square > 0 else 0.0
        oy, ox = py - along * dy, px - along * dx
        if oy * oy + ox * ox > most:
            most, found = oy * oy + ox * ox, i
    return found


def _far_points(at: list[Point], stay: list[int], tolerance: float) -> list[int]:
    """Douglas and Peucker: the points that stay, of those between some that stay."""
    stay, open_ = [*stay], list(pairwise(stay))
    while open_:
        first, last = open_.pop()
        middle = _farthest(at, first, last, tolerance)
        if middle is not None:
            stay.append(middle)
            open_ += [(first, middle), (middle, last)]
    return stay


def _opposite(at: list[Point], first: int, last: int) -> int:
    """The point of a closed arc that is farthest from its first one: with it, two open arcs."""
    return max(range(first, last), key=lambda i: (at[i][0] - at[first][0]) ** 2 + (at[i][1] - at[first][1]) ** 2)


def simplify(points: Tensor, offsets: Tensor, closed: Tensor, tolerance: float, method: str) -> tuple[Tensor, Tensor]:
    """One point after the other, from a heap with stale entries; the triangle test looks at every point in its box."""
    at: list[Point] = [(y, x) for y, x in points.tolist()]
    spans, loops = [(first, end - 1) for first, end in pairwise(offsets.tolist())], closed.tolist()
    before, after = list(range(-1, len(at) - 1)), list(range(1, len(at) + 1))
    arc = [a for a, (first, last) in enumerate(spans) for _ in range(first, last + 1)]
    rows: dict[int, set[int]] = {}  # x of the points in each row
    for y, x in at:
        rows.setdefault(y, set()).add(x)
    # The corners of the picture stay, else a frame would be cut off.
    columns = {x for row in rows.values() for x in row}
    frame = {(y, x) for y in (min(rows), max(rows)) for x in (min(columns), max(columns))} if at else set()
    candidate = [point not in frame for point in at]
    lines = [last - first for first, last in spans]
    # A closed arc keeps three points, one that ends where it starts, two besides; others may become one line.
    least = [3 if loop or at[first] == at[last] else 1 for (first, last), loop in zip(spans, loops, strict=True)]
    chord = [frozenset((at[first], at[last])) for first, last in spans]
    single = {chord[a] for a, length in enumerate(lines) if length == 1}
    for (first, last), loop in zip(spans, loops, strict=True):
        candidate[last] = False
        if loop:  # whose last point is its first
            before[first], after[last - 1] = last - 1, first
        else:
            candidate[first] = False

    limit = 9e18  # any triangle
    if method == "visvalingam":
        limit = min(limit, 2 * tolerance * tolerance)
    else:
        for (first, last), loop in zip(spans, loops, strict=True):
            stay = [first, _opposite(at, first, last), last] if loop else [first, last]
            for i in _far_points(at, stay, tolerance):
                candidate[i] = False

    def area(i: int) -> int:
        return abs(_cross(at[before[i]], at[i], at[after[i]]))

    def may_go(i: int) -> bool:
        if lines[arc[i]] <= least[arc[i]] or (lines[arc[i]] == 2 and chord[arc[i]] in single):
            return False
        a, b, c = corners = at[before[i]], at[i], at[after[i]]
        if _cross(a, b, c) < 0:
            b, c = c, b
        (top, first), (bottom, last) = map(min, zip(*corners, strict=True)), map(max, zip(*corners, strict=True))
        inside = (
            (y, x)
            for y in range(top, bottom + 1)
            for x in rows.get(y, ())
            if first <= x <= last and all(_cross(*side, (y, x)) >= 0 for side in ((a, b), (b, c), (c, a)))
        )
        return all(point in corners for point in inside)

    kept = [True] * len(at)
    queue = [(area(i), i) for i in range(len(at)) if candidate[i]]
    queue = [entry for entry in queue if entry[0] <= limit]
    heapq.heapify(queue)
    while queue:
        size, i = heapq.heappop(queue)
        if not kept[i] or size != area(i) or not may_go(i):
            continue
        kept[i] = False
        rows[at[i][0]].discard(at[i][1])
        after[before[i]], before[after[i]] = after[i], before[i]
        lines[arc[i]] -= 1
        if lines[arc[i]] == 1:
            single.add(chord[arc[i]])
        for j in (before[i], after[i]):
            if candidate[j] and kept[j] and area(j) <= limit:
                heapq.heappush(queue, (area(j), j))

    out: list[Point] = []
    ends = [0]
    for (first, last), loop in zip(spans, loops, strict=True):
        out += [at[i] for i in range(first, last + (not loop)) if kept[i]]
        if loop:
            out.append(out[ends[-1]])
        ends.append(len(out))
    return points.new_tensor(out).reshape(-1, 2), offsets.new_tensor(ends)
