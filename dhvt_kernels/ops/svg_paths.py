"""Segments as SVG path data, painted one over the other."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.library import get_ctx, register_fake

from .._checks import check_float, check_int, check_tensors
from .._schema import ops
from ._arcs import check_arcs, check_offsets
from .trace import Arcs

MOST = 2**30


class Paths(NamedTuple):
    """M paths, from the bottom of the stack to its top."""

    #: uint8 [N]: the path data of all, ASCII.
    text: Tensor
    #: int64 [M+1]: path `m` is `text[offsets[m]:offsets[m+1]]`.
    offsets: Tensor
    #: int32 [M]: the segment of each path.
    segments: Tensor


@register_fake("dhvt_kernels::svg_paths")
def _(
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
    characters, paths = (get_ctx().new_dynamic_size() for _ in range(2))
    return points.new_empty(characters, dtype=torch.uint8), offsets.new_empty(paths + 1), left.new_empty(paths)


def svg_paths(
    points: Tensor,
    offsets: Tensor,
    arcs: Arcs,
    *,
    opaque: Tensor,
    curves: bool,
    scale: float,
    size: tuple[int, int] | None = None,
) -> Paths:
    """Path data of every segment, for painting in this order, even-odd or by winding number.

    Where two segments meet, the upper one has the boundary right, and the lower one goes on underneath. So no
    background shows through between them. Again and again the opaque segment whose
    other boundaries, which are written again below it, are shortest goes on top of the opaque neighbour with which it
    shares most:

        region(s) = s and all that lies on top of it;  the path of s is the boundary of region(s)

    Segments that are not opaque lie beside the others: nothing is painted below or on top of them.

    Where one edge is painted twice, what lies below both shines through. With `size`, a boundary that is hidden, below
    an opaque segment or beside one that is painted later, runs on another way of few corners beneath it, where there is
    one: straight, or 1.5 or 8 pixels beside it. All pixel centres that change are covered, and those within
    a pixel of the way (half a pixel at 1.5), but for the 2.5 pixels at its ends. Boundaries beside no segment stay,
    so do those of the lowest region beside segments that are not opaque, and so do runs shorter than 10 pixels, of
    which too little would have to be covered.

    Args:
        points: float64 `[P,2]` on the CPU, `y` before `x`: those of the arcs, as lines (`arcs.points.double()`, or of
            `simplify`) or as curves (of `fit_curves`).
        offsets: int64 `[A+1]`: arc `a` has `points[offsets[a]:offsets[a+1]]`.
        arcs: of `trace`: which segments lie beside each arc, and the rings.
        opaque: bool `[K]`; labels outside [0, K) are no segment.
        curves: whether arcs are of 3 n + 1 control points, of lines and cubic Bezier curves.
        scale: units of the paths per pixel, above 0; coordinates are rounded to whole units, and stay below 2^30.
        size: height and width of the picture in pixels; None keeps every boundary as it is.

    Returns:
        `Paths`, one for each segment that has a ring.

    Raises:
        TypeError: not `Arcs`, other dtypes, `curves` is not a bool, or `size` not two integers.
        ValueError: shapes, offsets or numbers are none of these, or not on the CPU.
        RuntimeError: the rings do not have each side of an arc once.

    Note:
        No gradient. One thread, the same bits as the reference; with `size` a byte per pixel. The sizes of the outputs
        depend on the points, so `torch.compile` breaks the graph here.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> arcs = dk.trace(torch.tensor([[0, 0, 1]], dtype=torch.int32))
        >>> opaque = torch.ones(2, dtype=torch.bool)
        >>> paths = dk.svg_paths(arcs.points.double(), arcs.offsets, arcs, opaque=opaque, curves=False, scale=1)
        >>> text = bytes(paths.text.tolist()).decode()
        >>> [(s, text[a:b]) for s, a, b in zip(paths.segments.tolist(), paths.offsets, paths.offsets[1:])]
        [(0, 'M2 1h-2v-1h3v1z'), (1, 'M2 0h1v1h-1z')]
    """
    check_arcs(arcs)
    sizes = check_tensors(
        points=(points, "P 2", torch.float64), offsets=(offsets, "N", torch.int64), opaque=(opaque, "K", torch.bool)
    )
    if points.device.type != "cpu":
        raise ValueError(f"points: expected a tensor on the CPU; found {points.device}")
    if not isinstance(curves, bool):
        raise TypeError(f"curves: expected a bool; found {type(curves).__name__}")
    scale = check_float("scale", scale, above=0)
    if size is not None and not (isinstance(size, tuple) and len(size) == 2):
        raise TypeError(f"size: expected None or (height, width); found {size!r}")
    height, width = (check_int("size", number, 1) for number in size) if size is not None else (0, 0)
    check_offsets("offsets", offsets, len(arcs.left), sizes["P"])
    lengths = offsets.diff()
    if bool((lengths < 1).any()) or (curves and bool((lengths % 3 != 1).any())):
        raise ValueError("offsets: expected at least 1 point for every arc" + ", 3 n + 1 for curves" * curves)
    if not bool((points * scale).abs().lt(MOST).all()):
        raise ValueError("points: expected finite numbers, below 2^30 times the scale")
    columns = arcs.left, arcs.right, arcs.ring_arcs, arcs.ring_offsets
    return Paths(*ops.svg_paths(points, offsets, *columns, opaque, curves, scale, height, width))
