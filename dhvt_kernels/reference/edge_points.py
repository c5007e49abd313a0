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

    def shift(y: int, x: int, dy: int, dx: int) -> float:
        """How far the edge between pixel (y, x) and the next one in direction (dy, dx) lies in that direction."""
        near, far = label(y, x), label(y + dy, x + dx)
        if not (0 <= near < len(plane) and 0 <= far < len(plane)):
            return 0.0
        # Pixels on the near side, from the edge on, and on the far one.
        before = after = 1
        while before < DEPTH and label(y - before * dy, x - before * dx) == near:
            before += 1
        while after < DEPTH and label(y + (after + 1) * dy, x + (after + 1) * dx) == far:
            after += 1
        at_y, at_x = y + 0.5 * dy, x + 0.5 * dx
        contrast, along = 0.0, dict.fromkeys(range(1 - before, after + 1), 0.0)
        for c, ((a, b_y, b_x), (far_a, far_b_y, far_b_x)) in enumerate(zip(plane[near], plane[far], strict=True)):
            base = a + b_y * at_y + b_x * at_x
            step = far_a + far_b_y * at_y + far_b_x * at_x - base
            slope = b_y * dy + b_x * dx
            growth = far_b_y * dy + far_b_x * dx - slope
            contrast += step * step
            for i in along:
                off = pixels[y + i * dy][x + i * dx][c] - (base + (i - 0.5) * slope)
                along[i] += off * (step + (i - 0.5) * growth)
        if contrast <= 0:
            return 0.0
        # The share of each pixel that the far side covers, where its colour lies between those of the two.
        share = {i: _clamp(value / contrast, 0.0, 1.0) for i, value in along.items()}
        moved = 0.0
        for i in range(before):
            moved -= share[-i]
        for i in range(1, after + 1):
            moved += 1 - share[i]
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
