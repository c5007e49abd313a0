"""From pictures to SVG: a hierarchy made for it, and partitions as layers of paths."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._checks import check_float, check_int
from ._schema import ops
from .fills import Fills, fit_fills
from .hierarchy import Hierarchy, Selection
from .imaging import check_picture
from .ops import Arcs, Chains, color_sums, merge_tree, region_graph, segment_moments, simplify, trace
from .ops.color_sums import MOST_SIDE
from .partition import Partition
from .tokenizer import Tokenizer

#: A gradient reaches so many standard deviations of the positions on both sides of the centroid.
GRADIENT_REACH = 3.0
#: Bytes that a gradient takes, and the squared error that one has to save for each of them: this share of what all
#: segments together have per byte. That is about what a byte saves where it goes into more segments.
GRADIENT_BYTES, GRADIENT_SHARE = 150, 0.5
#: With noise far above any variance the criterion's likelihood is the squared error, and its penalty their number. The
#: noise is the one whose logarithm adds nothing, so that no digits are lost to it; colours are scaled down instead, by
#: a power of two. What rounding leaves is less than this strength, which stands for a squared error below 1/2.
_SCALE = 2.0**-13
_SQUARED_ERROR: dict[str, Any] = {"criterion": "bic", "noise": 1 / (2 * math.pi), "strength": 5e-10}

#: Pixels that are merged at a time; each takes 260 bytes meanwhile.
_STRIP_PIXELS = 2**20
#: Of a path along a side of the picture: differences are added up in int64, and curves may go beyond the frame.
_MOST_UNITS = 2**28


def vector_hierarchy(image: Tensor, *, max_leaves: int = 16384) -> Hierarchy:
    """A hierarchy for `to_svg`: regions of the picture's own colours, by squared error and length of boundary.

    Pixels are merged by Ward's distance; the best cut with `max_leaves` segments is merged again, the nearest pair of
    all first, by the squared error over the root of the length of the common boundary (`"ward_root"`), because
    boundaries are what an SVG file consists of. Cuts are by squared error.

    Args:
        image: [C,H,W], sRGB, floating point in [0, 1] or uint8; with C = 4 the last channel is alpha.
        max_leaves: the most segments that a cut can have.

    Returns:
        `Hierarchy` of this one image, on the CPU.

    Raises:
        TypeError: the image is neither floating point nor uint8.
        ValueError: not `[3,H,W]` or `[4,H,W]`, without pixels, or with more than 2^17 to a side.

    Note:
        Without gradient. Deterministic. Pictures of more than 2^20 pixels are merged in strips, which are then merged
        as regions; memory is 260 MiB and 50 bytes per pixel.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> hierarchy = dk.vector_hierarchy(torch.rand(3, 32, 48))
        >>> bool(hierarchy.cut(max_tokens=5).counts <= 5)
        True
    """
    check_int("max_leaves", max_leaves, 1)
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise TypeError(f"image: expected floating point or uint8; found {image.dtype}")
    if image.dim() != 3 or image.shape[0] not in (3, 4) or image.numel() == 0:
        raise ValueError(f"image: expected [3,H,W] or [4,H,W] with H, W >= 1; found {list(image.shape)}")
    if max(image.shape) > MOST_SIDE:
        raise ValueError(f"image: expected sides up to {MOST_SIDE} pixels; found {list(image.shape)}")
    with torch.no_grad():
        values = image[None].float() if image.dtype == torch.uint8 else image[None].float() * 255
        if image.shape[0] == 4:  # what is transparent has no colour
            values[:, :3].mul_(values[:, 3:]).div_(255)
        values *= _SCALE
        tokenizer = Tokenizer(nn.Identity(), leaves="pixels", distance="ward", **_SQUARED_ERROR)
        strips, leaves = [], 0
        for strip in values.split(max(_STRIP_PIXELS // values.shape[3], 1), 2):
            cut = tokenizer.hierarchy(strip).cut(max_tokens=max_leaves)
            strips.append(cut.labels.cpu() + leaves)
            leaves += int(cut.counts)
        values, labels = values.cpu(), torch.cat(strips, 1)
        if len(strips) > 1:
            cut = _merged(values, labels, leaves, "ward", "rounds").cut(max_tokens=max_leaves)
            labels, leaves = cut.labels, int(cut.counts)
        return _merged(values, labels, leaves, "ward_root", "best")


def _merged(values: Tensor, labels: Tensor, segments: int, distance: str, order: str) -> Hierarchy:
    """Of the segments [1,H,W] of a picture [1,C,H,W]."""
    graph = region_graph(labels, num_segments=segments)
    moments = segment_moments(values, labels, num_segments=segments)
    tree = merge_tree(moments, graph.edges, graph.lengths, distance=distance, order=order)
    return Hierarchy(labels, tree, Selection(**_SQUARED_ERROR), True, node_features=tree.moments.mean / _SCALE)


def to_svg(
    image: Tensor,
    partition: Partition,
    *,
    tolerance: float = 0.0,
    curves: bool = False,
    gradients: bool = False,
    precision: int = 1,
) -> str:
    """The partition as an SVG image: one path per segment, filled with the segment's mean colour.

    Segments lie on one another in layers: of two neighbours one goes on underneath the other, so that no background
    shows through where they meet, and ends there on a way of few points (`svg_paths`). A segment's path has the id
    `s<segment>`, and all its parts. With `tolerance=0` outlines are exact: rendered at its own size the image shows
    every pixel in the colour of its segment.

    Args:
        image: [3,H,W] or [1,3,H,W], sRGB, floating point in [0, 1] or uint8; with 4 channels the last is alpha.
        partition: the partition of this one image (`partition[i]` of a batch, or `vector_hierarchy(image).cut(...)`).
        tolerance: how far outlines may be off, in pixels; 0 for the exact ones. The picture's frame is exact, but where
            pixels without a segment touch it.
        curves: outlines of lines and cubic Bezier curves, fitted to where the colours put the edges between pixels,
            instead of polygons on the pixel lattice; the tolerance is then greater than 0.
        gradients: linear gradients instead of mean colours where they are worth their bytes.
        precision: decimals of the coordinates of curves, in pixels.

    Returns:
        The text of an SVG file of W x H pixels. Pixels without segment are left transparent, and so are segments
        without alpha; in between there is `fill-opacity`. Segments are opaque where most of their pixels are.

    Raises:
        TypeError: the image is neither floating point nor uint8.
        ValueError: `image` and `partition` are not one image of the same size; curves with tolerance 0, or with more
            decimals than 2^28 units along the longer side have.

    Note:
        Runs on the CPU, without gradient. Means and gradients are of the encoded sRGB values, as renderers mix them.
        Curves closer to each other than 1.5 pixels and twice the tolerance may touch; polygons never do (`simplify`).
        Partly transparent segments have no layer below.

    Example:
        >>> import torch
        >>> import dhvt_kernels as dk
        >>> image = torch.rand(3, 32, 48)
        >>> svg = dk.to_svg(image, dk.vector_hierarchy(image).cut(max_tokens=4))
        >>> svg.count("<path") <= 4
        True
    """
    check_float("tolerance", tolerance, minimum=0)
    check_int("precision", precision, 0)
    if curves and tolerance == 0:
        raise ValueError("tolerance: expected a number > 0 for curves; found 0")
    pixels = check_picture(image, partition, (3, 4))
    labels, segments = partition.labels[0].cpu(), int(partition.counts[0])
    height, width = labels.shape
    decimals = int(math.log10(_MOST_UNITS / max(height, width)))
    if curves and precision > decimals:
        raise ValueError(f"precision: expected at most {decimals} for {width} x {height} pixels; found {precision}")
    alpha, opaque = np.ones(segments), np.ones(segments, bool)
    if pixels.shape[0] == 4:
        pixels = _premultiplied(pixels)
        count, opaque_pixels = (
            color_sums((pixels[3:] == 255).byte(), labels, num_segments=segments).numpy()[:, [0, 6]].T
        )
        # Rims are anti-aliased, also those of what is opaque.
        opaque = 2 * opaque_pixels > count
    fills = fit_fills(color_sums(pixels, labels, num_segments=segments).numpy())
    if pixels.shape[0] == 4:
        alpha = fills.mean[:, 3] / 255
    opacity = np.where(opaque, 1, alpha)

    # From here to the paths by the operators themselves: what each makes is what the next one's function would check.
    arcs = trace(labels)
    scale = 10**precision if curves else 1
    points, offsets = _outlines(arcs, pixels, labels, fills, tolerance, curves)
    exact = not curves and len(points) == len(arcs.points)
    rings = arcs.left, arcs.right, arcs.ring_arcs, arcs.ring_offsets
    picture = (0, 0) if exact else (height, width)
    layers = torch.from_numpy(opaque), curves, float(scale)
    text, bounds, order = ops.svg_paths(points, offsets, *rings, *layers, *picture)
    data, ends = text.numpy().tobytes().decode("ascii"), bounds.tolist()
    paint = [f'fill="{color}"' for color in _hex(_colors(fills.mean, alpha))]
    size = 110 + 40 * segments + len(data)  # about that of the file, with the tags around all and around each path
    definitions = _gradients(fills, alpha, opaque, size, scale) if gradients else {}
    for segment in definitions:
        paint[segment] = f'fill="url(#g{segment})"'
    for segment in np.flatnonzero(~opaque).tolist():
        paint[segment] += f' fill-opacity="{opacity[segment]:.3g}"'
    seen = (opacity >= 0.5 / 255).tolist()
    paths = [
        f'<path id="s{segment}" {paint[segment]} d="{data[begin:end]}"/>'
        for segment, begin, end in zip(order.tolist(), ends[:-1], ends[1:], strict=True)
        if seen[segment]
    ]
    box = f'width="{width}" height="{height}" viewBox="0 0 {width * scale} {height * scale}"'
    inner = "".join([*(["<defs>", *definitions.values(), "</defs>"] if definitions else []), *paths])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{inner}</svg>\n'


def _outlines(
    arcs: Arcs, pixels: Tensor, labels: Tensor, fills: Fills, tolerance: float, curves: bool
) -> tuple[Tensor, Tensor]:
    """Points of every arc, and where they begin: corners of polygons, or control points of curves."""
    if curves:
        slopes = fills.slope[:, :, None] * fills.direction[:, None, :]
        start = fills.mean - (slopes * fills.centroid[:, None, :]).sum(-1)
        planes = torch.from_numpy(np.concatenate([start[:, :, None], slopes], -1))
        noise = torch.from_numpy(fills.linear_error / np.maximum(fills.count, 1))
        edges = ops.edge_points(arcs.points, arcs.offsets, arcs.closed, pixels, labels, planes, noise)
        points, offsets = ops.fit_curves(*edges, arcs.closed, tolerance)
        return _keep_frame(arcs, Chains(points, offsets, arcs.closed), labels)
    if tolerance > 0:
        arcs = simplify(arcs, tolerance=tolerance, method="douglas-peucker")
    return arcs.points.double(), arcs.offsets


def _keep_frame(arcs: Arcs, fitted: Chains, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The curves, but arcs along the frame as they are: the background would show where its corners are cut."""
    height, width = labels.shape
    corners, offsets, ends = arcs.points.numpy(), arcs.offsets.numpy(), fitted.offsets.numpy()
    y, x = corners.T
    inside = np.concatenate([[0], ((y > 0) & (y < height) & (x > 0) & (x < width)).cumsum()])
    outer = (arcs.left.numpy() < 0) | (arcs.right.numpy() < 0)
    frame = (np.diff(inside[offsets]) == 0) & outer
    sizes = np.where(frame, 3 * (np.diff(offsets) - 1) + 1, np.diff(ends))
    points, pieces, done = fitted.points.numpy(), [], 0
    for arc in np.flatnonzero(frame).tolist():
        # The handles of a line lie at its ends: corners are there three times, the two ends twice.
        line = corners[offsets[arc] : offsets[arc + 1]].astype(points.dtype).repeat(3, 0)
        pieces += [points[done : ends[arc]], line[1:-1]]
        done = ends[arc + 1]
    pieces.append(points[done:])
    return torch.from_numpy(np.concatenate(pieces)), torch.from_numpy(np.concatenate([[0], sizes.cumsum()]))


def _premultiplied(pixels: Tensor) -> Tensor:
    """uint8 [4,H,W] whose colours count as much as they are seen."""
    pixels = pixels.clone()
    for rows in pixels.split(64, 1):  # little memory
        rows[:3] = (rows[:3].int() * rows[3].int() + 127) // 255
    return pixels


def _colors(mean: NDArray[np.float64], alpha: NDArray[np.float64]) -> NDArray[np.uint8]:
    """[K,3]: the colours of the means [K,3] or premultiplied [K,4]."""
    colors = mean[:, :3] / np.maximum(alpha, 0.5 / 255)[:, None]
    return colors.round().clip(0, 255).astype(np.uint8)


def _hex(colors: NDArray[np.uint8]) -> list[str]:
    """`#rrggbb`, or `#rgb` where that is the same colour."""
    digits = colors.tobytes().hex()
    long = [digits[i : i + 6] for i in range(0, len(digits), 6)]
    return [f"#{c[::2] if c[0] == c[1] and c[2] == c[3] and c[4] == c[5] else c}" for c in long]


def _gradients(
    fills: Fills, alpha: NDArray[np.float64], opaque: NDArray[np.bool_], size: int, scale: int
) -> dict[int, str]:
    """Segment -> definition of its gradient, for those that are worth it in a file of `size` bytes."""
    error = fills.error.sum()
    gain = np.where(opaque, fills.error - fills.linear_error, 0)
    chosen = np.flatnonzero(gain * size > GRADIENT_SHARE * GRADIENT_BYTES * error)
    mean, slope = (of[chosen, :3] / alpha[chosen, None] for of in (fills.mean, fills.slope))
    reach = GRADIENT_REACH * fills.spread[chosen, None]
    # A stop where a channel comes to 0 or 255, and stays.
    with np.errstate(divide="ignore", invalid="ignore"):
        limits = np.sort([-mean / slope, (255 - mean) / slope], 0)
    limits = np.where(slope == 0, np.nan, limits.clip(-reach, reach))
    low, high = np.nanmin(limits, (0, 2), initial=0), np.nanmax(limits, (0, 2), initial=0)
    places = np.sort(np.where(np.isnan(limits), low[:, None], limits).swapaxes(0, 1).reshape(-1, 6), 1)
    colors = (mean[:, None] + places[:, :, None] * slope[:, None]).round().clip(0, 255).astype(np.uint8)
    codes = np.array(_hex(colors.reshape(-1, 3))).reshape(-1, 6).tolist()
    offsets = ((places - low[:, None]) / np.maximum(high - low, 1e-9)[:, None]).round(3)
    center, direction = fills.centroid[chosen] + 0.5, fills.direction[chosen]
    ends = np.concatenate([center + at[:, None] * direction for at in (low, high)], 1)  # y1, x1, y2, x2
    found = {}
    for segment, (y1, x1, y2, x2), *stops in zip(
        chosen.tolist(), (ends * scale).round().astype(int).tolist(), offsets.tolist(), codes, strict=True
    ):
        inner = "".join(
            f'<stop offset="{offset:.3g}" stop-color="{color}"/>'.replace('"0.', '".').replace(' offset="0"', "")
            for offset, color in dict(zip(*stops, strict=True)).items()
        )
        found[segment] = (
            f'<linearGradient id="g{segment}" gradientUnits="userSpaceOnUse" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}">'
            f"{inner}</linearGradient>"
        )
    return found
