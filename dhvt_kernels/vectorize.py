"""From a partition to polygons and SVG: exact outlines on the pixel lattice."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .imaging import segment_colors
from .partition import Partition

# Around a lattice point lie four pixels, 0 = above left, 1 = above right, 2 = below left, 3 = below right. An outline
# keeps its segment on the right, so in an image it runs clockwise (a hole counter-clockwise). At the point, the outline
# of pixel p turns right where both side neighbours differ from it (a convex corner), and left where both equal it and
# the diagonal one differs (a concave corner). Diagonal pixels alone never connect.
_RIGHT, _DOWN, _LEFT, _UP = range(4)
_IN = np.array([[_DOWN, _LEFT, _RIGHT, _UP], [_LEFT, _UP, _DOWN, _RIGHT]], np.int8)  # [convex | concave, pixel]
_OUT = np.array([[_LEFT, _UP, _DOWN, _RIGHT], [_DOWN, _LEFT, _RIGHT, _UP]], np.int8)
_STRIP_PIXELS = 1 << 22


class Rings(NamedTuple):
    """Closed polygons in order of their segment: ring `r` has the corners `points[offsets[r]:offsets[r + 1]]`.

    `points` int32 [P,2] are lattice points, `y` before `x`: pixel `(y, x)` covers `[y, y+1] x [x, x+1]`. `offsets` is
    int64 [R+1], `labels` int32 [R] the segment of each ring. Outer rings run clockwise as seen in the image, holes
    counter-clockwise; each ring starts with a horizontal side, and horizontal and vertical sides alternate.
    """

    points: NDArray[np.int32]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int32]


def _corners(labels: NDArray) -> tuple[NDArray, ...]:
    """Every corner of every outline in raster order: y, x, label, direction in, direction out."""
    height, width = labels.shape
    found = []
    rows = max(1, _STRIP_PIXELS // (width + 2))
    for top in range(0, height + 1, rows):  # strips bound the temporary memory
        bottom = min(top + rows, height + 1)
        pixels = np.full((bottom - top + 1, width + 2), -1, np.int32)
        inside = labels[max(top - 1, 0) : min(bottom, height)]
        first = 1 if top == 0 else 0
        pixels[first : first + len(inside), 1:-1] = np.maximum(inside, -1)
        same_x, same_y = pixels[:, 1:] == pixels[:, :-1], pixels[1:] == pixels[:-1]
        straight = (same_x[:-1] & same_x[1:]) | (same_y[:, :-1] & same_y[:, 1:])
        point = np.flatnonzero(~straight)
        y, x = np.divmod(point, width + 1)
        around = np.stack([pixels[y, x], pixels[y, x + 1], pixels[y + 1, x], pixels[y + 1, x + 1]], 1)
        beside = around[:, [1, 0, 3, 2]] == around, around[:, [2, 3, 0, 1]] == around
        convex = ~beside[0] & ~beside[1]
        concave = beside[0] & beside[1] & (around[:, ::-1] != around)
        index, pixel = np.nonzero((convex | concave) & (around >= 0))
        kind = concave[index, pixel].astype(np.int8)
        place = (y[index] + top).astype(np.int32), x[index].astype(np.int32)
        found.append((*place, around[index, pixel], _IN[kind, pixel], _OUT[kind, pixel]))
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def trace_rings(labels: ArrayLike | Tensor) -> Rings:
    """The outlines of all segments of a label map, exact on the pixel lattice.

    Filling the rings of a segment with the even-odd rule gives back its pixels. Segments need not be connected.

    Args:
        labels: integers [H,W]; negative = no segment.

    Returns:
        The `Rings`: corners only, no collinear points.

    Raises:
        ValueError: `labels` is not an integer array [H,W].

    Note:
        Runs on the CPU, without gradient. Apart from one pass over the pixels, time and memory follow the corners.

    Example:
        >>> import numpy as np
        >>> rings = trace_rings(np.array([[0, 0, 1]]))
        >>> rings.points[rings.offsets[0] : rings.offsets[1]].tolist()
        [[0, 0], [0, 2], [1, 2], [1, 0]]
    """
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(f"labels: expected integers [H,W]; found {list(array.shape)} of {array.dtype}")
    y, x, label, into, out = _corners(array)

    # Sides of one direction on one lattice line do not overlap, so the k-th start on it belongs to the k-th end.
    successor = np.empty(len(y), np.int32)
    columns = np.argsort(x.astype(np.int64) * (array.shape[0] + 1) + y, kind="stable").astype(np.int32)
    for direction in (_RIGHT, _LEFT):
        successor[np.flatnonzero(out == direction)] = np.flatnonzero(into == direction)
    for direction in (_DOWN, _UP):
        successor[columns[out[columns] == direction]] = columns[into[columns] == direction]

    # Horizontal and vertical sides alternate: following every second corner halves the walk.
    starts = np.flatnonzero((out == _RIGHT) | (out == _LEFT))
    starts = starts[np.argsort(label[starts], kind="stable")]
    position = np.empty(len(y), np.int32)
    position[starts] = np.arange(len(starts))
    order, ends = _cycles(position[successor[successor[starts]]])
    first = starts[order]
    ring = np.stack([first, successor[first]], 1).reshape(-1)
    offsets = np.concatenate([[0], 2 * np.asarray(ends, np.int64)])
    return Rings(np.stack([y[ring], x[ring]], 1), offsets, label[ring[offsets[:-1]]])


def _cycles(permutation: NDArray) -> tuple[list[int], list[int]]:
    """The elements of a permutation cycle by cycle, and where each cycle ends."""
    following: list[int] = permutation.tolist()
    order: list[int] = []
    ends: list[int] = []
    for start in range(len(following)):
        here = start
        while (after := following[here]) >= 0:
            order.append(here)
            following[here] = -1
            here = after
        if len(order) > (ends[-1] if ends else 0):
            ends.append(len(order))
    return order, ends


def to_svg(image: Tensor, partition: Partition) -> str:
    """The partition as an SVG image: one path per segment, filled with the segment's mean colour.

    Outlines are exact: rendered at its own size the image shows every pixel in the mean sRGB colour of its segment. A
    segment's path has the id `s<segment>`, and all its rings: holes and separate parts too.

    Args:
        image: [3,H,W] or [1,3,H,W], sRGB, floating point in [0, 1] or uint8.
        partition: the partition of this one image (`partition[i]` of a batch).

    Returns:
        The text of an SVG file of W x H units.

    Raises:
        ValueError: `image` and `partition` are not one image of the same size.

    Note:
        Runs on the CPU, without gradient.

    Example:
        >>> import torch
        >>> import dhvt_kernels as dk
        >>> image = torch.rand(3, 32, 48)
        >>> svg = dk.to_svg(image, dk.Tokenizer(max_tokens=4)(image[None]))
        >>> svg.count("<path") <= 4
        True
    """
    colors = segment_colors(image, partition)
    height, width = partition.labels.shape[1:]
    rings = trace_rings(partition.labels[0])
    # Sides alternate between horizontal and vertical; the last one is drawn by closing the ring.
    sides = np.diff(rings.points, axis=0).sum(1).tolist()
    first = rings.points[rings.offsets[:-1]].tolist()
    offsets = rings.offsets.tolist()
    paths: dict[int, list[str]] = {}
    for ring, label in enumerate(rings.labels.tolist()):
        start, end = offsets[ring], offsets[ring + 1]
        draw = ("h%dv%d" * ((end - start) // 2))[:-3]
        y, x = first[ring]
        paths.setdefault(label, []).append(f"M{x} {y}" + draw % tuple(sides[start : end - 1]) + "z")
    body = "".join(
        f'<path id="s{label}" fill="#{red:02x}{green:02x}{blue:02x}" d="{"".join(path)}"/>\n'
        for (label, path), (red, green, blue) in zip(paths.items(), colors[list(paths)].tolist(), strict=True)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'fill-rule="evenodd" shape-rendering="crispEdges">\n{body}</svg>\n'
    )
