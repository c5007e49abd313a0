"""The graph of touching segments."""

from typing import NamedTuple

from torch import Tensor
from torch.library import register_fake

from .._checks import LABELS, check_int, check_tensors
from .._schema import ops


class RegionGraph(NamedTuple):
    """The pairs of segments that touch, in E slots per image."""

    #: Segments (u, v) with u < v, in lexicographic order: int32 [B,E,2]; unused slots are -1.
    edges: Tensor
    #: Number of 4-neighbour pixel pairs between the two: int32 [B,E]; 0 in unused slots.
    lengths: Tensor
    #: Number of edges of the image: int32 [B]; more than E if some did not fit.
    counts: Tensor


@register_fake("dhvt_kernels::region_graph")
def _(labels: Tensor, num_segments: int, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    batch = labels.shape[0]
    return labels.new_empty(batch, capacity, 2), labels.new_empty(batch, capacity), labels.new_empty(batch)


def region_graph(labels: Tensor, *, num_segments: int, capacity: int | None = None) -> RegionGraph:
    """Which segments touch, and along how many pixel pairs.

    Segments u and v share an edge of length ``l_uv = |{(i, j): pixels i, j are 4-neighbours, i in S_u, j in S_v}|``
    where that is not 0.

    Args:
        labels: [B,H,W] of int32. A pixel whose label is outside [0, K) belongs to no segment and has no edge.
        num_segments: K, the number of segments of every image.
        capacity: E, the slots for edges of every image. Default: max(3 K, 1), enough whenever every segment is
            4-connected (a planar graph has at most 3 K - 6 edges).

    Returns:
        `RegionGraph(edges [B,E,2], lengths [B,E], counts [B])`, int32. Where an image has more than E edges, the first
        E in lexicographic order are kept, and its count is the true number, above E.

    Raises:
        TypeError: labels is not an int32 tensor, or a number is not an integer.
        ValueError: labels is not [B,H,W], num_segments < 0, or capacity < 1.

    Note:
        No gradient. Results are bitwise equal for any number of threads. Costs one pass over the labels, and time
        linear in the number of neighbouring pixels with different labels; pixels are not sorted by comparison.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> labels = torch.tensor([[[0, 0, 1], [2, 2, 1]]], dtype=torch.int32)
        >>> graph = dk.region_graph(labels, num_segments=3, capacity=4)
        >>> graph.edges[0].tolist(), graph.lengths[0].tolist(), graph.counts.tolist()
        ([[0, 1], [0, 2], [1, 2], [-1, -1]], [1, 2, 1, 0], [3])
    """
    check_tensors(labels=(labels, "B H W", LABELS))
    check_int("num_segments", num_segments, 0)
    capacity = max(3 * num_segments, 1) if capacity is None else check_int("capacity", capacity, 1)
    return RegionGraph(*ops.region_graph(labels, num_segments, capacity))
