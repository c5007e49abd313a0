"""Path data of segments that are painted one over the other."""

import heapq
from collections.abc import Iterator
from functools import partial
from itertools import groupby, pairwise

import torch
from torch import Tensor

from ._detours import Cover, Place, Point, Run, detour, flatten, round_away

SMALL = 64  # neighbours up to which a segment's priority is kept exact; with more, it may be an old one
HIDDEN = 6  # about the bytes of a boundary that is hidden


class _Pen:
    """Path data in whole numbers: relative commands, repeated letters and needless separators left out."""

    def __init__(self) -> None:
        self.text = self.letter = ""
        self.here = self.start = (0, 0)
        self.run: Place | None = None  # a line that may go on
        self.separate = False

    def begin(self, to: Place) -> None:
        self._finish_line()
        first = not self.text
        self._command("M" if first else "m", self._by(to))
        self.letter = "L" if first else "l"  # pairs after a move are lines
        self.here = self.start = to

    def line(self, to: Place) -> None:
        x, y = self._by(to)
        if x == y == 0:
            return
        run = self.run
        if run and ((run[1] == y == 0 and run[0] * x > 0) or (run[0] == x == 0 and run[1] * y > 0)):
            self.run = run[0] + x, run[1] + y  # straight on: one line
        else:
            self._finish_line()
            self.run = x, y
        self.here = to

    def curve(self, a: Place, b: Place, to: Place) -> None:
        if a == self.here and b == to:
            return self.line(to)
        self._finish_line()
        self._command("c", self._by(a) + self._by(b) + self._by(to))
        self.here = to

    def piece(self, points: list[Place]) -> None:
        """A line or a curve, from where it begins."""
        if len(points) == 4:
            self.curve(points[1], points[2], points[3])
        else:
            self.line(points[1])

    def close(self) -> None:
        self.run = None  # a last line back to the start is drawn by closing
        self._command("z", ())
        self.here = self.start

    def _by(self, to: Place) -> Place:
        return to[0] - self.here[0], to[1] - self.here[1]

    def _finish_line(self) -> None:
        if self.run:
            x, y = self.run
            self._command("h" if y == 0 else "v" if x == 0 else "l", (x,) if y == 0 else (y,) if x == 0 else (x, y))
            self.run = None

    def _command(self, letter: str, numbers: tuple[int, ...]) -> None:
        if letter != self.letter or letter == "z":
            self.text += letter
            self.letter, self.separate = letter, False
        for number in numbers:
            self.text += f"{' ' if self.separate and number >= 0 else ''}{number}"
            self.separate = True


class _Layers:
    """Segments with what is painted over them so far. Dart 2 a runs along arc a, 2 a + 1 back."""

    def __init__(self, side: list[int], price: list[int], opaque: list[bool]) -> None:
        self.side, self.opaque = side, opaque
        self.parent = list(range(len(opaque)))
        self.darts: list[list[int]] = [[] for _ in opaque]
        self.shared: list[list[tuple[int, int]]] = [[] for _ in opaque]  # neighbours, and what the boundary costs
        self.total, self.version = [0 for _ in opaque], [0 for _ in opaque]
        self.queue: list[tuple[int, int, int]] = []
        for d, s in enumerate(side):
            if s >= 0:
                self.darts[s].append(d)
                self.total[s] += price[d // 2]
                if side[d ^ 1] >= 0:
                    self.shared[s].append((side[d ^ 1], price[d // 2]))
        for s, darts in enumerate(self.darts):
            if darts:
                self._push(s)

    def each(self) -> Iterator[tuple[int, list[int], bool]]:
        """Segments, the boundary darts of their regions, and whether nothing opaque goes below: from the top to the
        bottom."""
        painted = set()
        while self.queue:
            key, s, version = heapq.heappop(self.queue)
            if version != self.version[s] or s in painted:
                continue
            below, common = self._best(s)
            if below < 0:
                continue
            if self.total[s] - common > key:
                self._push(s)
                continue
            painted.add(s)
            darts = self._boundary(s)
            yield s, darts, False
            # It joins what lies below.
            touched = [*self.shared[s]]
            self.parent[s] = below
            self.total[below] += self.total[s] - 2 * common
            self.darts[below] += darts
            self.shared[below] += touched
            for other, _ in touched:
                if len(self.shared[other]) <= SMALL:
                    self._push(other)
        for s, darts in enumerate(self.darts):
            if self.parent[s] == s and darts and s not in painted:
                yield s, self._boundary(s), True

    def region(self, dart: int) -> int:
        s = self.side[dart]
        while s >= 0 and self.parent[s] != s:
            s = self.parent[s]
        return s

    def _boundary(self, s: int) -> list[int]:
        return [d for d in self.darts[s] if self.region(d ^ 1) != s]

    def _best(self, s: int) -> tuple[int, int]:
        """The opaque neighbour with most in common, and how much; -1 where there is none."""
        sums: dict[int, int] = {}
        for other, price in self.shared[s]:
            while self.parent[other] != other:
                other = self.parent[other]
            if other != s:
                sums[other] = sums.get(other, 0) + price
        self.shared[s] = sorted(sums.items())
        candidates = (entry for entry in self.shared[s] if self.opaque[entry[0]])
        return max(candidates, key=lambda entry: entry[1], default=(-1, 0))

    def _push(self, s: int) -> None:
        # What lies below something transparent would be seen.
        if not self.opaque[s]:
            return
        below, common = self._best(s)
        if below >= 0:
            self.version[s] += 1
            heapq.heappush(self.queue, (self.total[s] - common, s, self.version[s]))


class _Hider:
    """Draws darts of one region that follow each other and are hidden: in another way where there is one."""

    def __init__(
        self, outlines: "_Outlines", side: list[int], opaque: list[bool], scale: float, height: int, width: int
    ) -> None:
        self.outlines, self.side, self.opaque, self.scale = outlines, side, opaque, scale
        self.cover, self.painted = Cover(height, width), set[int]()
        self.flat = [[self._flatten(piece) for piece in outlines.pieces(dart)] for dart in range(0, len(side), 2)]
        for arc, pieces in enumerate(self.flat):
            for piece in pieces:
                for a, b in pairwise(piece):
                    self.cover.add(a, b, side[2 * arc + 1], side[2 * arc])
        self.cover.finish()

    def paint(self, segment: int) -> None:
        self.painted.add(segment)
        self.cover.paint(segment)

    def hidden(self, dart: int, segment: int, bottom: bool) -> bool:
        """Not where there is no segment on the other side, nor at the bottom where that is not opaque: there the
        background would show at the edge of what covers it."""
        other = self.side[dart ^ 1]
        if other < 0 or (bottom and not self.opaque[other]):
            return False
        return self.side[dart] != segment or other in self.painted

    def draw(self, pen: _Pen, segment: int, darts: list[int]) -> None:
        run, pieces, near = Run(), [], True
        for dart in darts:
            side = -1 if self.side[dart] == segment else 0 if self.side[dart ^ 1] in self.painted else 1
            flat = [piece[::-1] for piece in self.flat[dart // 2][::-1]] if dart & 1 else self.flat[dart // 2]
            for piece, points in zip(self.outlines.pieces(dart), flat, strict=True):
                for point in points:
                    run.add(point, side)
                    near &= self._near(point)
                pieces.append((piece, len(run.points) - 1))

        def some(first: int, last: int, begin: int) -> None:
            """Pieces [first, last), the first of which begins at that point of the run."""
            piece, end = pieces[last - 1]
            places = detour(self.cover, run, self.scale, begin, end, piece[-1])
            for place in places:
                pen.line(place)
            if places:
                return
            if last - first == 1:
                return pen.piece(piece)
            middle = (first + last) // 2
            some(first, middle, begin)
            some(middle, last, pieces[middle - 1][1])

        if near and pieces:
            some(0, len(pieces), 0)
        else:  # what lies elsewhere is nothing that was traced
            for piece, _ in pieces:
                pen.piece(piece)

    def _near(self, point: Point) -> bool:
        x, y = point
        return -1 <= x <= self.cover.width + 1 and -1 <= y <= self.cover.height + 1

    def _flatten(self, piece: list[Place]) -> list[Point]:
        points = [(x / self.scale, y / self.scale) for x, y in piece]
        if len(piece) == 4 and not (piece[0] == piece[1] and piece[2] == piece[3]):
            a, b, c, d = points
            return [a, *flatten(a, b, c, d)]
        return [points[0], points[-1]]


class _Outlines:
    """Darts as pieces: lines and curves."""

    def __init__(self, lines: list[list[Place]], stride: int) -> None:
        self.lines, self.stride = lines, stride

    def pieces(self, dart: int) -> list[list[Place]]:
        line = self.lines[dart // 2][:: -1 if dart & 1 else 1]
        return [line[i : i + self.stride + 1] for i in range(0, len(line) - 1, self.stride)]

    def start(self, dart: int) -> Place:
        return self.lines[dart // 2][-1 if dart & 1 else 0]


def svg_paths(
    points: Tensor,
    offsets: Tensor,
    left: Tensor,
    right: Tensor,
    ring_arcs: Tensor,
    ring_offsets: Tensor,
    opaque: Tensor,
    curves: bool,
    scale: float,
    height: int,
    width: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Segment by segment from the top of the stack; every region's boundary is followed dart by dart."""
    places = [(round_away(scale * x), round_away(scale * y)) for y, x in points.tolist()]
    lines = [places[first:end] for first, end in pairwise(offsets.tolist())]
    segments = opaque.shape[0]
    side = [s if 0 <= s < segments else -1 for pair in zip(right.tolist(), left.tolist(), strict=True) for s in pair]
    signed = [2 * arc if arc >= 0 else 2 * ~arc + 1 for arc in ring_arcs.tolist()]
    following: dict[int, int] = {}  # the dart after it around its segment
    for begin, end in pairwise(ring_offsets.tolist()):
        ring = signed[begin:end]
        following.update(zip(ring, ring[1:] + ring[:1], strict=True))

    outlines = _Outlines(lines, 3 if curves else 1)

    def draw(pen: _Pen, dart: int) -> None:
        for piece in outlines.pieces(dart):
            pen.piece(piece)

    hider = _Hider(outlines, side, opaque.tolist(), scale, height, width) if height > 0 and width > 0 else None

    def hidden(dart: int, segment: int, bottom: bool) -> bool:
        return hider is not None and hider.hidden(dart, segment, bottom)

    price = []
    for arc in range(len(lines)):
        pen = _Pen()
        pen.begin(outlines.start(2 * arc))
        before = len(pen.text)
        draw(pen, 2 * arc)
        pen.close()
        price.append(len(pen.text) - before if hider is None else min(len(pen.text) - before, HIDDEN))

    layers = _Layers(side, price, opaque.tolist())
    paths = []
    for segment, boundary, bottom in layers.each():
        pen = _Pen()
        seen = set()
        for first in boundary:
            if first in seen:
                continue
            ring, dart = [], first
            while dart not in seen:
                seen.add(dart)
                ring.append(dart)
                dart = following[dart]
                while layers.region(dart ^ 1) == segment:
                    dart = following[dart ^ 1]
            # It begins where what is hidden ends: a last line is drawn by closing.
            covered = [hidden(dart, segment, bottom) for dart in ring]
            begin = next((i for i in range(len(ring)) if not covered[i] and covered[i - 1]), 0)
            ring = ring[begin:] + ring[:begin]
            pen.begin(outlines.start(ring[0]))
            for below, darts in groupby(ring, partial(hidden, segment=segment, bottom=bottom)):
                if hider is not None and below:
                    hider.draw(pen, segment, [*darts])
                else:
                    for dart in darts:
                        draw(pen, dart)
            pen.close()
        if hider is not None and opaque[segment]:
            hider.paint(segment)
        paths.append((segment, pen.text.encode()))
    paths.reverse()
    text = b"".join(path for _, path in paths)
    ends = torch.tensor([0, *(len(path) for _, path in paths)], device=points.device).cumsum(0)
    return (
        torch.tensor(list(text), dtype=torch.uint8, device=points.device),
        ends,
        left.new_tensor([segment for segment, _ in paths]),
    )
