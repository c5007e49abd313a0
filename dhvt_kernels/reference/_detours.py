"""Where the boundary of a segment may run instead beneath what is painted over it."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise

Place = tuple[int, int]  # x, y in units of the paths
Point = tuple[float, float]  # x, y in pixels

FLAT, LINES = 0.1, 100  # curves as lines: how far off, in pixels, and at most how many
FREE = 2.5  # pixels at both ends where a way need not be covered, to meet what is seen
SHORTEST = 10.0  # pixels of a run: of shorter ones too little would have to be covered
CORNERS = 4


def round_away(value: float) -> int:
    """To the nearest integer, halves away from zero."""
    whole = math.floor(abs(value))
    return int(math.copysign(whole + (abs(value) - whole >= 0.5), value))


def flatten(a: Point, b: Point, c: Point, d: Point) -> Iterator[Point]:
    """Points of lines along a curve, without its beginning."""
    x = max(abs(a[0] - 2 * b[0] + c[0]), abs(b[0] - 2 * c[0] + d[0]))
    y = max(abs(a[1] - 2 * b[1] + c[1]), abs(b[1] - 2 * c[1] + d[1]))
    lines = min(math.ceil(math.sqrt(0.75 / FLAT * (x + y))), LINES)
    for k in range(1, lines):
        t = k / lines
        s = 1 - t
        u = 3 * s * t
        sss, sst, stt, ttt = s * s * s, u * s, u * t, t * t * t
        yield (
            sss * a[0] + sst * b[0] + stt * c[0] + ttt * d[0],
            sss * a[1] + sst * b[1] + stt * c[1] + ttt * d[1],
        )
    yield d


def _first_pixel(at: float, size: int) -> int:
    """The first pixel whose centre is not before a coordinate."""
    return math.ceil(min(max(at - 0.5, 0.0), size))


def _cross_rows(a: Point, b: Point, height: int) -> Iterator[tuple[int, float, bool]]:
    """Every row of pixel centres that a line crosses, where, and whether downwards."""
    down = a[1] < b[1]
    if not down:
        a, b = b, a
    rows = range(_first_pixel(a[1], height), _first_pixel(b[1], height))
    if rows:
        slope = (b[0] - a[0]) / (b[1] - a[1])
        for row in rows:
            yield row, a[0] + (row + 0.5 - a[1]) * slope, down


class Cover:
    """The pixels whose centres lie below what is painted already."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.covered = [bytearray(width) for _ in range(height)]
        self.crossings: list[list[tuple[float, int, int]]] = [[] for _ in range(height)]  # x, west, east
        self.runs: dict[int, list[tuple[int, int, int]]] = {}  # by segment: row, first pixel, end

    def add(self, a: Point, b: Point, left: int, right: int) -> None:
        """A line of the outline between two segments."""
        for row, x, down in _cross_rows(a, b, self.height):
            self.crossings[row].append((x, right, left) if down else (x, left, right))

    def finish(self) -> None:
        """After all lines. Where outlines cross each other there is no segment."""
        for row, crossings in enumerate(self.crossings):
            for (x, _, east), (to, west, _) in pairwise(sorted(crossings)):
                if east >= 0 and east == west:
                    run = row, _first_pixel(x, self.width), _first_pixel(to, self.width)
                    self.runs.setdefault(east, []).append(run)

    def paint(self, segment: int) -> None:
        for row, begin, end in self.runs.get(segment, []):
            self.covered[row][begin:end] = b"\1" * (end - begin)

    def row(self, row: int, begin: int, end: int) -> bool:
        """Whether pixels [begin, end) of a row are covered."""
        return self.covered[row].find(0, begin, end) < 0

    def line(self, a: Point, b: Point, margin: float) -> bool:
        """Whether all pixels are whose centres are, in x and in y, no farther than the margin from a line."""
        if a[1] > b[1]:
            a, b = b, a
        level = a[1] == b[1]
        slope = 0 if level else (b[0] - a[0]) / (b[1] - a[1])
        for row in range(_first_pixel(a[1] - margin, self.height), _first_pixel(b[1] + margin, self.height)):
            top, bottom = max(a[1], row + 0.5 - margin), min(b[1], row + 0.5 + margin)
            x = a[0] + (top - a[1]) * slope
            to = b[0] if level else a[0] + (bottom - a[1]) * slope
            begin, end = _first_pixel(min(x, to) - margin, self.width), _first_pixel(max(x, to) + margin, self.width)
            if not self.row(row, begin, end):
                return False
        return True

    def loop(self, points: list[Point]) -> bool:
        """Whether all pixels are around which a closed line goes."""
        turns = sorted(
            (row, _first_pixel(x, self.width), 1 if down else -1)
            for a, b in pairwise([*points, points[0]])
            for row, x, down in _cross_rows(a, b, self.height)
        )
        winding = 0
        for (row, x, turn), (_, to, _) in pairwise(turns):
            winding += turn
            if winding and not self.row(row, x, to):
                return False
        return True


class Run:
    """A part of a region's boundary that is hidden."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.length: list[float] = []
        self.side: list[int] = []  # of the piece that ends at the point

    def add(self, to: Point, side: int) -> None:
        """`side` is where what covers it lies: 1 to the right, -1 to the left, 0 on both sides."""
        length = 0.0
        if self.points:
            x, y = to[0] - self.points[-1][0], to[1] - self.points[-1][1]
            length = self.length[-1] + math.sqrt(x * x + y * y)
            if length == self.length[-1]:
                return
        self.points.append(to)
        self.length.append(length)
        self.side.append(side)

    def beside(self, at: float, depth: float, begin: int, end: int) -> Point:
        """The point at a length that between two points is reached, and moved so far under what covers it."""
        i = bisect_right(self.length, at, begin + 1, end)
        (ax, ay), (bx, by) = self.points[i - 1], self.points[i]
        piece = self.length[i] - self.length[i - 1]
        share, moved = (at - self.length[i - 1]) / piece, depth * self.side[i] / piece
        return ax + (bx - ax) * share - (by - ay) * moved, ay + (by - ay) * share + (bx - ax) * moved


def detour(cover: Cover, run: Run, scale: float, begin: int, end: int, to: Place) -> list[Place]:
    """Places after point `begin` of the run, the last of them `to`, which is point `end`.

    A way of few corners for which everything that changes is covered; none where there is no such way.
    """
    points, length = run.points, run.length
    low, high = length[begin], length[end]
    closed = points[begin] == points[end]
    if high - low < SHORTEST:
        return []

    def point(at: Place) -> Point:
        return at[0] / scale, at[1] / scale

    def corner(at: float, depth: float) -> Place:
        x, y = run.beside(at, depth, begin, end)
        return (
            round_away(min(max(x, 0.0), cover.width) * scale),
            round_away(min(max(y, 0.0), cover.height) * scale),
        )

    def clear(first: float, last: float, a: Point, b: Point, margin: float) -> bool:
        """Whether the line is covered that replaces the run from one length to another."""
        x, y = b[0] - a[0], b[1] - a[1]
        size = math.sqrt(x * x + y * y)
        skip, stop = FREE if first == low else 0.0, size - FREE if last == high else size
        if skip > stop:
            return True
        if size == 0:
            return cover.line(a, b, margin)
        s, t = skip / size, stop / size
        return cover.line((a[0] + s * x, a[1] + s * y), (a[0] + t * x, a[1] + t * y), margin)

    def between(places: list[Place]) -> bool:
        """Whether all that the way and the run enclose is covered."""
        return cover.loop([*points[begin : end + 1], *map(point, places[-2::-1])])

    def bent(depth: float, margin: float) -> list[Place]:
        """Beside the run, so deep under what covers it; corners are added in the middle of what is not covered."""
        places: list[Place] = []

        def split(first: float, last: float, a: Point, b: Point, place: Place) -> bool:
            if clear(first, last, a, b, margin):
                places.append(place)
                return True
            if last - first < 2 * depth or len(places) >= CORNERS:
                return False
            middle = (first + last) / 2
            at = corner(middle, depth)
            return (
                cover.line(point(at), point(at), margin)
                and split(first, middle, a, point(at), at)
                and split(middle, last, point(at), b, place)
            )

        inset = depth * 1.25
        if margin < 1 or 2 * inset >= high - low:
            stops = [(low + high) / 2]
        else:
            stops = [low + inset, high - inset]
        corners = [corner(at, depth) for at in stops]
        ways = zip(
            pairwise([low, *stops, high]),
            pairwise([points[begin], *map(point, corners), points[end]]),
            [*corners, to],
            strict=True,
        )
        found = all(split(*lengths, *ends, place) for lengths, ends, place in ways)
        return places if found and between(places) else []

    if not closed and clear(low, high, points[begin], points[end], 1) and between([to]):
        return [to]
    return bent(1.5, 0.5) or bent(8, 1)
