"""Arcs with fewer points, which still share their boundaries and do not cross."""

from torch import Tensor
from torch.library import get_ctx, register_fake

from .._checks import check_choice, check_float
from .._schema import ops
from ._arcs import check_arcs
from .trace import Arcs

METHODS = ("visvalingam", "douglas-peucker")


@register_fake("dhvt_kernels::simplify")
def _(points: Tensor, offsets: Tensor, closed: Tensor, tolerance: float, method: str) -> tuple[Tensor, Tensor]:
    return points.new_empty(get_ctx().new_dynamic_size(), 2), offsets.new_empty(offsets.shape)


def simplify(arcs: Arcs, *, tolerance: float, method: str = "visvalingam") -> Arcs:
    """The same arcs with fewer points: some are taken out, the others stay where they are.

    One after the other, that whose triangle with its two neighbours on the arc is smallest goes first, of the points

        "visvalingam":      while the area of that triangle is at most tolerance^2
        "douglas-peucker":  at most `tolerance` away from the line between two that stay, as found by halving each arc
                            at its farthest point

    A point stays where another one lies in that triangle or on its border, where two arcs between the same junctions
    would become one line, and where a closed arc would be left with less than three points. So no line comes to cross
    or to cover another, and every segment keeps its neighbours and a positive area. Junctions stay, and the corners of
    the picture.

    Args:
        arcs: of `trace`.
        tolerance: at least 0, in pixels; 0 leaves everything.
        method: which points may go, one of `"visvalingam"`, `"douglas-peucker"`.

    Returns:
        `Arcs` with other `points` and `offsets`; the first point of a closed arc may be another one.

    Raises:
        TypeError: not `Arcs`, or other dtypes.
        ValueError: shapes or offsets do not fit, not on the CPU, or a number or a name is none of these.

    Note:
        No gradient. In integers, one thread. Takes one bit per lattice point and about 40 bytes per point. The sizes
        of the outputs depend on the points, so `torch.compile` breaks the graph here. (M. Visvalingam, J. D. Whyatt,
        "Line generalisation by repeated elimination of points", The Cartographic Journal 1993. D. H. Douglas, T. K.
        Peucker, "Algorithms for the reduction of the number of points required to represent a digitized line or its
        caricature", Cartographica 1973.)

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> arcs = dk.trace(torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 1]], dtype=torch.int32))
        >>> arcs.points[arcs.offsets[1] : arcs.offsets[2]].tolist()
        [[1, 3], [1, 2], [2, 2], [2, 1], [3, 1]]
        >>> simple = dk.simplify(arcs, tolerance=1)
        >>> simple.points[simple.offsets[1] : simple.offsets[2]].tolist()
        [[1, 3], [3, 1]]
    """
    check_arcs(arcs)
    check_float("tolerance", tolerance, minimum=0)
    check_choice("method", method, METHODS)
    points, offsets = ops.simplify(arcs.points, arcs.offsets, arcs.closed, tolerance, method)
    return arcs._replace(points=points, offsets=offsets)
