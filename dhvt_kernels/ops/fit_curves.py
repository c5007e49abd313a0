"""Chains of points as few lines and cubic Bezier curves."""

import torch
from torch import Tensor
from torch.library import get_ctx, register_fake

from .._checks import check_float
from .._schema import ops
from ._arcs import check_chains
from .edge_points import Chains


@register_fake("dhvt_kernels::fit_curves")
def _(points: Tensor, offsets: Tensor, closed: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    return points.new_empty(get_ctx().new_dynamic_size(), 2), offsets.new_empty(offsets.shape)


def fit_curves(chains: Chains, *, tolerance: float) -> Chains:
    """Lines and cubic Bezier curves within `tolerance` pixels of the points, each as long as it can be.

    A chain turns by more than 50 degrees at a corner, which is kept; where two straight sides meet in one, it is put
    where they do. From one corner to the next, a piece is the longest line, or the longest curve where that is at least
    2.5 times as long: a curve

        B(t) = (1-t)^3 p0 + 3 (1-t)^2 t p1 + 3 (1-t) t^2 p2 + t^3 p3

    ends in points of the chain, there smoothed by (1 2 1) / 4, and p1, p2 minimise sum_i |B(t_i) - q_i|^2 over its
    points q_i. At a corner a handle is free; elsewhere it has the direction of the chain, so that two curves meet in
    one tangent. The t_i follow the length of the chain, then a few steps of Newton's method.

    Args:
        chains: float64 points, `[P,2]`, on the CPU: of `edge_points`, or any. The last point of a closed one is its
            first.
        tolerance: at least 0, in pixels: largest distance of a point from its piece, at the parameter t_i.

    Returns:
        `Chains` of control points, 3 n + 1 for n pieces; the handles of a line lie at its ends. A closed chain starts
        at a corner, where it has one, and is never two lines or one smooth curve, which enclose nothing. Ends of open
        chains stay.

    Raises:
        TypeError: not `Chains`, or other dtypes.
        ValueError: shapes or offsets do not fit, not on the CPU, or `tolerance` is no such number.

    Note:
        No gradient. Bitwise equal for any number of threads. Time of n log n for a piece of n points. The sizes of the
        outputs depend on the points, so `torch.compile` breaks the graph here. (The fit with reparametrisation is that
        of P. J. Schneider, "An algorithm for automatically fitting digitized curves", Graphics Gems 1990.)

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> points = torch.tensor([[0, 0], [0, 1], [0, 2], [0, 3], [0, 4]], dtype=torch.float64)
        >>> chains = dk.Chains(points, torch.tensor([0, 5]), torch.tensor([False]))
        >>> dk.fit_curves(chains, tolerance=0.5).points.tolist()
        [[0.0, 0.0], [0.0, 0.0], [0.0, 4.0], [0.0, 4.0]]
    """
    if not isinstance(chains, Chains):
        raise TypeError(f"chains: expected Chains; found {type(chains).__name__}")
    check_chains("chains", chains.points, chains.offsets, chains.closed, torch.float64, 2)
    check_float("tolerance", tolerance, minimum=0)
    points, offsets = ops.fit_curves(chains.points, chains.offsets, chains.closed, tolerance)
    return Chains(points, offsets, chains.closed)
