"""Boundaries of segments as arcs between junctions, and rings of arcs."""

from itertools import pairwise

import torch
from torch import Tensor

# Directions, clockwise in the image: 0 right, 1 down, 2 left, 3 up.
_STEP = ((0, 1), (1, 0), (0, -1), (-1, 0))
_ON_LEFT = ((-1, 0), (0, 0), (0, -1), (-1, -1))  # the pixel left of an edge, from the point where the edge starts

Point = tuple[int, int]
Dart = tuple[Point, int]  # an edge that leaves a point in a direction


def _boundary(labels: Tensor) -> dict[Point, list[int]]:
    """Lattice points on a boundary in raster order, each with the directions of its boundary edges."""
    pixels = torch.nn.functional.pad(labels, (1, 1, 1, 1), value=-1)
    nw, ne, sw, se = pixels[:-1, :-1], pixels[:-1, 1:], pixels[1:, :-1], pixels[1:, 1:]
    edges = torch.stack([ne != se, se != sw, sw != nw, nw != ne], 2)
    found: dict[Point, list[int]] = {}
    for y, x, direction in edges.nonzero().tolist():
        found.setdefault((y, x), []).append(direction)
    return found


def _walk(boundary: dict[Point, list[int]], start: Point, direction: int) -> tuple[list[Point], list[Dart]]:
    """The corners from a junction to the next, or around a closed boundary; and every edge passed, forward."""
    points, passed = [start], []
    here = start
    while True:
        passed.append((here, direction))
        here = here[0] + _STEP[direction][0], here[1] + _STEP[direction][1]
        if here == start or len(boundary[here]) > 2:
            return [*points, here], passed
        (onwards,) = (d for d in boundary[here] if d != (direction + 2) % 4)
        if onwards != direction:
            points.append(here)
        direction = onwards


def trace(labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Arcs: those between junctions in order of their first end, then closed ones; rings by label, holes last."""
    labels = labels.clamp(min=-1)
    height, width = labels.shape
    boundary = _boundary(labels) if labels.numel() > 0 else {}
    junctions = {point for point, directions in boundary.items() if len(directions) > 2}
    pixels = labels.tolist()

    def label(point: Point, direction: int) -> int:
        """What lies on the left of an edge."""
        y, x = point[0] + _ON_LEFT[direction % 4][0], point[1] + _ON_LEFT[direction % 4][1]
        return pixels[y][x] if 0 <= y < height and 0 <= x < width else -1

    arcs: list[list[Point]] = []
    left, right, closed = [], [], []
    leaving: dict[Dart, int] = {}  # the signed arc that leaves a junction
    arrival: dict[int, Dart] = {}  # where a signed arc ends, and its last direction
    taken: set[Dart] = set()
    for starts in (junctions, boundary.keys() - junctions):
        for start in filter(starts.__contains__, boundary):
            for direction in boundary[start]:
                if (start, direction) in taken:
                    continue
                points, passed = _walk(boundary, start, direction)
                end, last = points[-1], passed[-1][1]
                for (y, x), d in passed:
                    taken |= {((y, x), d), ((y + _STEP[d][0], x + _STEP[d][1]), (d + 2) % 4)}
                arc = len(arcs)
                leaving[start, direction], leaving[end, (last + 2) % 4] = arc, ~arc
                arrival[arc], arrival[~arc] = (end, last), (start, (direction + 2) % 4)
                arcs.append(points)
                left.append(label(start, direction))
                right.append(label(start, direction + 1))
                closed.append(start not in junctions)

    rings = []
    seen = set()
    for first in (signed for arc in range(len(arcs)) for signed in (arc, ~arc)):
        owner = right[first] if first >= 0 else left[~first]
        if first in seen or owner < 0:
            continue
        ring, area = [], 0
        signed = first
        while signed not in seen:
            seen.add(signed)
            ring.append(signed)
            points = arcs[signed] if signed >= 0 else arcs[~signed][::-1]
            area += sum(x1 * (y1 - y0) for (y0, _), (y1, x1) in pairwise(points))
            # The rightmost boundary goes on around the segment: pixels that only touch diagonally do not connect.
            point, direction = arrival[signed]
            turns = ((point, (direction + turn) % 4) for turn in (1, 0, 3))
            signed = next(leaving[turn] for turn in turns if turn in leaving)
        rings.append((owner, area < 0, ring))
    rings.sort(key=lambda ring: ring[:2])

    def tensor(values: list, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=labels.device)

    def offsets(parts: list) -> Tensor:
        lengths = tensor([0, *map(len, parts)], torch.int64)
        return lengths.cumsum(0)

    return (
        tensor([point for arc in arcs for point in arc]).reshape(-1, 2),
        offsets(arcs),
        tensor(left),
        tensor(right),
        tensor(closed, torch.bool),
        tensor([signed for _, _, ring in rings for signed in ring]),
        offsets([ring for _, _, ring in rings]),
        tensor([owner for owner, _, _ in rings]),
        tensor([hole for _, hole, _ in rings], torch.bool),
    )
