"""The boundaries of a label map: arcs between junctions, and the rings of arcs around each segment."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.library import get_ctx, register_fake

from .._checks import LABELS, check_tensors
from .._schema import ops


class Arcs(NamedTuple):
    """A arcs of P points in all, and R rings of S arcs in all. A lattice point `(y, x)` is a corner of pixels: pixel
    `(y, x)` covers `[y, y+1] x [x, x+1]`."""

    #: int32 [P,2], `y` before `x`: the ends of each arc and its corners in between.
    points: Tensor
    #: int64 [A+1]: arc `a` has `points[offsets[a]:offsets[a+1]]`, at least two; a closed one ends with its first.
    offsets: Tensor
    #: int32 [A]: the segment on the left, seen along the arc; -1 is no segment, or outside.
    left: Tensor
    #: int32 [A]: the segment on the right.
    right: Tensor
    #: bool [A]: without any junction. (An arc that starts and ends at one junction is not closed.)
    closed: Tensor
    #: int32 [S]: `a >= 0` is arc `a` along its points, `~a = -1 - a` the same arc backwards.
    ring_arcs: Tensor
    #: int64 [R+1]: ring `r` has the arcs `ring_arcs[ring_offsets[r]:ring_offsets[r+1]]`, each starts where one ends.
    ring_offsets: Tensor
    #: int32 [R], not decreasing: the segment of each ring, which lies on its right.
    ring_labels: Tensor
    #: bool [R]: whether the ring is a hole; the holes of a segment come after its outer rings.
    holes: Tensor


@register_fake("dhvt_kernels::trace")
def _(labels: Tensor) -> tuple[Tensor, ...]:
    points, arcs, sequence, rings = (get_ctx().new_dynamic_size() for _ in range(4))
    return (
        labels.new_empty(points, 2),
        labels.new_empty(arcs + 1, dtype=torch.int64),
        labels.new_empty(arcs),
        labels.new_empty(arcs),
        labels.new_empty(arcs, dtype=torch.bool),
        labels.new_empty(sequence),
        labels.new_empty(rings + 1, dtype=torch.int64),
        labels.new_empty(rings),
        labels.new_empty(rings, dtype=torch.bool),
    )


def trace(labels: Tensor) -> Arcs:
    """The boundaries between segments, exact on the pixel lattice, each stored once.

    An edge between two neighbouring pixels is on a boundary where their labels differ; around the image lies no
    segment. A junction is a lattice point where three or four such edges meet; an arc is the boundary from one junction
    to the next, or a whole boundary without junctions. The segments on its two sides share it: where its inner points
    are moved, no gap opens.

        filling the rings of segment s, even-odd or by winding number, gives back {pixels i: labels_i = s}

    A ring has its segment on the right: in the image, outer rings run clockwise and holes counter-clockwise. Segments
    need not be connected. Pixels that only touch diagonally do not connect: four boundaries meet there, and every ring
    turns right.

    Args:
        labels: int32 `[H,W]` on the CPU, one label map; negative = no segment. At most 2^29 lattice points.

    Returns:
        `Arcs`. Arcs between junctions come in the raster order of the end they start from, and there right, down, left,
        up; then closed ones, in that of their first point, the leftmost of the topmost, from which they go right. Rings
        come by segment, outer ones first, then in order of the first of their arcs.

    Raises:
        TypeError: not an int32 tensor.
        ValueError: not `[H,W]`, or not on the CPU.

    Note:
        No gradient. Bitwise equal for any number of threads. One pass over the pixels, then time linear in the length
        of the boundaries; takes 1.2 bytes per pixel beyond the labels and the outputs. The sizes of the outputs depend
        on the labels, so `torch.compile` breaks the graph here.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> arcs = dk.trace(torch.tensor([[0, 0, 1]], dtype=torch.int32))
        >>> [arcs.points[a:b].tolist() for a, b in zip(arcs.offsets, arcs.offsets[1:])]
        [[[0, 2], [0, 3], [1, 3], [1, 2]], [[0, 2], [1, 2]], [[0, 2], [0, 0], [1, 0], [1, 2]]]
        >>> arcs.left.tolist(), arcs.right.tolist()
        ([-1, 1, 0], [1, 0, -1])
        >>> arcs.ring_arcs.tolist(), arcs.ring_offsets.tolist(), arcs.ring_labels.tolist(), arcs.holes.tolist()
        ([1, -3, 0, -2], [0, 2, 4], [0, 1], [False, False])
    """
    check_tensors(labels=(labels, "H W", LABELS))
    if labels.device.type != "cpu":
        raise ValueError(f"labels: expected a tensor on the CPU; found {labels.device}")
    return Arcs(*ops.trace(labels))
