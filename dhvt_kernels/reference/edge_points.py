"""The midpoints of the lattice edges along arcs, moved to where the picture shows the edge."""

from itertools import pairwise

import torch
from torch import Tensor

DEPTH = 2  # pixels on each side whose colours are mixed
MOST_SHIFT = 0.75  # so that neighbours along an arc keep their order


def _clamp(value: float, low: float, high: float) -> float:
    return low if value < low else high if high < value else value  # NaN stays NaN


def edge_points(
    points: Tensor, offsets: Tensor, closed: Tensor, image: Tensor, labels: Tensor, planes: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Edge by edge; sums over channels, then over pixels, in the order of the kernel."""
    height, width = labels.shape
    pixels, segments, plane, errors = image.permute(1, 2, 0).tolist(), labels.tolist(), planes.tolist(), noise.tolist()

    def label(y: int, x: int) -> int:
        return segments[y][x] if 0 <= y < height and 0 <= x < width else -1

    def colors(k: int, y: float, x: float) -> list[float]:
        return [a + b * y + c * x for a, b, c in plane[k]]

    def shift(y: int, x: int, dy: int, dx: int) -> float:
        """How far the edge between pixel (y, x) and the next one in direction (dy, dx) lies in that direction."""
        near, far = label(y, x), label(y + dy, x + dx)
        if not (0 <= near < len(plane) and 0 <= far < len(plane)):
            return 0.0
        here, there = colors(near, y + 0.5 * dy, x + 0.5 * dx), colors(far, y + 0.5 * dy, x + 0.5 * dx)
        contrast = 0.0
        for a, b in zip(here, there, strict=True):
            contrast += (b - a) * (b - a)
        if contrast <= 0:
            return 0.0

        def share(y: int, x: int) -> float:
            """The share of a pixel that the far side covers, where its colour lies between those of the two."""
            total = 0.0
            for value, a, b in zip(pixels[y][x], colors(near, y, x), colors(far, y, x), strict=True):
                total += (value - a) * (b - a)
            return _clamp(total / contrast, 0.0, 1.0)

        moved = 0.0
        for i in range(DEPTH):
            if label(y - i * dy, x - i * dx) != near:
                break
            moved -= share(y - i * dy, x - i * dx)
        for i in range(1, DEPTH + 1):
            if label(y + i * dy, x + i * dx) != far:
                break
            moved += 1 - share(y + i * dy, x + i * dx)
        weight = contrast + errors[near] + errors[far]
        moved = _clamp(moved, -MOST_SHIFT, MOST_SHIFT) * contrast
        # As of IEEE 754, where Python raises an error.
        return torch.tensor(moved, dtype=torch.float64).div(weight).item() if weight == 0 else moved / weight

    at = points.tolist()
    out: list[list[float]] = []
    ends = [0]
    for (first, end), loop in zip(pairwise(offsets.tolist()), closed.tolist(), strict=True):
        middle = []
        for (y, x), (to_y, to_x) in pairwise(at[first:end]):
            dy, dx = (to_y > y) - (to_y < y), (to_x > x) - (to_x < x)
            while (y, x) != (to_y, to_x):
                # The pixel on the left of the edge that starts here; from it, the other one is to the right.
                by = shift(y - (dy < 0 or dx > 0), x - (dx < 0 or dy < 0), dx, -dy)
                middle.append([y + 0.5 * dy + by * dx, x + 0.5 * dx + by * -dy])
                y, x = y + dy, x + dx
        out += [*middle, middle[0]] if loop else [at[first], *middle, at[end - 1]]
        ends.append(len(out))
    return planes.new_tensor(out).reshape(-1, 2), offsets.new_tensor(ends)
