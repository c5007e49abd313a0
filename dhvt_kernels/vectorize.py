"""From a partition to polygons and SVG: exact outlines on the pixel lattice."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ._checks import INT32_MAX
from .imaging import segment_colors
from .ops.trace import trace
from .partition import Partition


class Rings(NamedTuple):
    """Closed polygons in order of their segment: ring `r` has the corners `points[offsets[r]:offsets[r + 1]]`.

    `points` int32 [P,2] are lattice points, `y` before `x`: pixel `(y, x)` covers `[y, y+1] x [x, x+1]`. `offsets` is
    int64 [R+1], `labels` int32 [R] the segment of each ring. Outer rings run clockwise as seen in the image, holes
    counter-clockwise; each ring starts with a horizontal side, and horizontal and vertical sides alternate.
    """

    points: NDArray[np.int32]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int32]


def trace_rings(labels: ArrayLike | Tensor) -> Rings:
    """The outlines of all segments of a label map, exact on the pixel lattice.

    Filling the rings of a segment with the even-odd rule gives back its pixels. Segments need not be connected.

    Args:
        labels: integers [H,W]; negative = no segment.

    Returns:
        The `Rings`: corners only, no collinear points.

    Raises:
        ValueError: `labels` is not an integer array [H,W], or has labels beyond int32.

    Note:
        Runs on the CPU, without gradient: the rings of `trace`. Apart from one pass over the pixels, time and memory
        follow the corners.

    Example:
        >>> import numpy as np
        >>> rings = trace_rings(np.array([[0, 0, 1]]))
        >>> rings.points[rings.offsets[0] : rings.offsets[1]].tolist()
        [[1, 2], [1, 0], [0, 0], [0, 2]]
    """
    arcs = trace(_label_map(labels))
    offsets, steps = arcs.offsets.numpy(), arcs.ring_offsets.numpy()
    # The points of every ring, from arc to arc: of each arc all but the last, which is the first of the next.
    signed = arcs.ring_arcs.numpy()
    arc = np.where(signed < 0, ~signed, signed)
    sides = offsets[arc + 1] - offsets[arc] - 1
    begin = np.where(signed < 0, offsets[arc + 1] - 1, offsets[arc])
    ends = np.concatenate([[0], np.cumsum(sides)])
    index = np.arange(ends[-1]) - np.repeat(ends[:-1], sides)
    pairs = arcs.points.numpy().reshape(-1).view(np.int64)  # both coordinates as one number
    pairs = pairs[np.repeat(begin, sides) + np.repeat(np.where(signed < 0, -1, 1), sides) * index]

    # Junctions are no corners where the ring goes straight on.
    y = pairs.view(np.int32)[::2]
    level = y[_shifted(ends[steps], 1)] == y  # the side that starts at the point is horizontal
    corner = level != level[_shifted(ends[steps], -1)]
    bounds = np.concatenate([[0], np.cumsum(corner)])[ends[steps]]
    pairs, level = pairs[corner], level[corner]
    # Horizontal and vertical sides alternate, so that one of the first two points starts a horizontal side.
    turned = np.repeat(~level[bounds[:-1]], np.diff(bounds))
    points = np.where(turned, pairs[_shifted(bounds, 1)], pairs).view(np.int32)
    return Rings(points.reshape(-1, 2), bounds, arcs.ring_labels.numpy())


def _label_map(labels: ArrayLike | Tensor) -> Tensor:
    """int32 [H,W] on the CPU, of any integers."""
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(f"labels: expected integers [H,W]; found {list(array.shape)} of {array.dtype}")
    if array.dtype != np.int32:
        if array.size > 0 and array.max() > INT32_MAX:
            raise ValueError(f"labels: expected at most {INT32_MAX}; found {array.max()}")
        array = array.clip(-1 if array.dtype.kind == "i" else 0).astype(np.int32)
    return torch.from_numpy(np.ascontiguousarray(array))


def _shifted(bounds: NDArray[np.int64], by: int) -> NDArray[np.int64]:
    """For each element of the groups between bounds the index of the next (1) or previous (-1), around its group."""
    index = np.arange(bounds[-1]) + by
    first, last = bounds[:-1], bounds[1:] - 1
    if by > 0:
        index[last] = first
    else:
        index[first] = last
    return index


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
