"""Where the picture shows the edges between segments: positions between pixels."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.library import get_ctx, register_fake

from .._checks import LABELS, check_tensors
from .._schema import ops
from ._arcs import check_arcs
from .trace import Arcs


class Chains(NamedTuple):
    """A chains of P points in all; a lattice point is `(y, x)` as for `Arcs`, the centre of pixel (0, 0) (0.5, 0.5)."""

    #: float64 [P,2], `y` before `x`.
    points: Tensor
    #: int64 [A+1]: chain `a` has `points[offsets[a]:offsets[a+1]]`, at least two; a closed one ends with its first.
    offsets: Tensor
    #: bool [A].
    closed: Tensor


@register_fake("dhvt_kernels::edge_points")
def _(
    points: Tensor, offsets: Tensor, closed: Tensor, image: Tensor, labels: Tensor, planes: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    return planes.new_empty(get_ctx().new_dynamic_size(), 2), offsets.new_empty(offsets.shape)


def edge_points(arcs: Arcs, image: Tensor, labels: Tensor, *, planes: Tensor, noise: Tensor) -> Chains:
    """The midpoints of the lattice edges along every arc, moved along the edge's normal to where the colours put it.

    With m_s(p) = a_s + b_s y + c_s x the colour of segment s at p, and d = m_far - m_near at the lattice edge, the far
    segment covers of a pixel i beside the edge the share

        f_i = clamp((I_i - m_near(i)) . (m_far(i) - m_near(i)) / |d|^2, 0, 1)

    and the edge lies where the shares put it, the less so the more the noise of both hides the step:

        shift = clamp(sum over near i of -f_i + sum over far i of (1 - f_i), -0.75, 0.75)
                * |d|^2 / (|d|^2 + noise_near + noise_far)

    over the pixels of either segment, two on each side at most, in line with the edge. Ends of open arcs stay, and so
    do edges beside no segment, as at the frame.

    Args:
        arcs: of `trace(labels)`.
        image: uint8 `[C,H,W]` on the CPU, the picture.
        labels: int32 `[H,W]`, those that were traced; outside [0, K) is no segment.
        planes: float64 `[K,C,3]`: a, b, c of each segment and channel, 0..255 and per pixel; `y` and `x` are whole
            numbers at pixel centres.
        noise: float64 `[K]`: mean squared error of the segment's colours, summed over the channels.

    Returns:
        `Chains`: of an open arc its first point, one point per lattice edge, and its last; of a closed one the points
        of its edges, and the first of them again.

    Raises:
        TypeError: not `Arcs`, or other dtypes.
        ValueError: shapes or offsets do not fit, not on the CPU, or arcs that are not on the lattice of `labels`.

    Note:
        No gradient. Bitwise equal for any number of threads. Reads about 5 (C + 4) bytes per lattice edge. The sizes of
        the outputs depend on the points, so `torch.compile` breaks the graph here.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> image = torch.tensor([[[0, 0, 75, 100, 100]]], dtype=torch.uint8)  # the third pixel: a quarter is dark
        >>> labels = torch.tensor([[0, 0, 1, 1, 1]], dtype=torch.int32)
        >>> planes = torch.tensor([[[0.0, 0, 0]], [[100.0, 0, 0]]], dtype=torch.float64)
        >>> chains = dk.edge_points(dk.trace(labels), image, labels, planes=planes, noise=torch.zeros(2).double())
        >>> chains.points[chains.offsets[1] : chains.offsets[2]].tolist()
        [[0.0, 2.0], [0.5, 2.25], [1.0, 2.0]]
    """
    check_arcs(arcs)
    check_tensors(
        labels=(labels, "H W", LABELS),
        image=(image, "C H W", torch.uint8),
        planes=(planes, "K C 3", torch.float64),
        noise=(noise, "K", torch.float64),
    )
    if labels.device.type != "cpu":
        raise ValueError(f"labels: expected a tensor on the CPU; found {labels.device}")
    if bool(((arcs.points < 0) | (arcs.points > torch.tensor(labels.shape))).any()):
        raise ValueError(f"arcs.points: expected points on the lattice of labels, {list(labels.shape)}; found others")
    oblique = (arcs.points.diff(dim=0) != 0).all(1)
    oblique[arcs.offsets[1:-1] - 1] = False  # from one arc to the next
    if bool(oblique.any()):
        raise ValueError("arcs.points: expected arcs of trace, along rows and columns; found oblique lines")
    points, offsets = ops.edge_points(arcs.points, arcs.offsets, arcs.closed, image, labels, planes, noise)
    return Chains(points, offsets, arcs.closed)
