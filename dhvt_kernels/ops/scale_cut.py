"""Cuts of a scale set: any number of strengths and budgets at once."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.library import register_fake

from .._checks import check_int, check_tensors
from .._schema import ops


class ScaleCut(NamedTuple):
    """N partitions of the leaves of each tree into subtrees."""

    #: Segment of each leaf: int32 [N,B,L]; -1 for unused leaves. Numbered in the order of each segment's lowest leaf.
    segment: Tensor
    #: Tree node of each segment: int32 [N,B,K]; -1 in unused slots.
    node: Tensor
    #: Number of segments: int32 [N,B].
    counts: Tensor
    #: The strength that made the cut: float32 [N,B].
    strength: Tensor


@register_fake("dhvt_kernels::scale_cut")
def _(
    lower: Tensor, parent: Tensor, round: Tensor, strength: Tensor, max_tokens: Tensor, num_segments: int
) -> tuple[Tensor, ...]:
    batch, nodes = parent.shape
    cuts = strength.shape[0]
    return (
        parent.new_empty(cuts, batch, (nodes + 1) // 2),
        parent.new_empty(cuts, batch, num_segments),
        parent.new_empty(cuts, batch),
        lower.new_empty(cuts, batch),
    )


def scale_cut(
    lower: Tensor, parent: Tensor, round: Tensor, *, strength: Tensor, max_tokens: Tensor, num_segments: int
) -> ScaleCut:
    """Cut every tree of a scale set at N strengths or budgets: at s, into the nodes with ``lower_v <= s < upper_v``.

    Args:
        lower: [B,V] of float32, from `scale_set`. The tree has V = 2 L - 1 nodes, the L leaves first. Of other numbers
            a node counts with the least of its own and its ancestors', and a leaf with 0.
        parent: [B,V] of int32, as in `scale_set`.
        round: [B,V] of int32, as in `scale_set`.
        strength: [N] of float32: of each cut, the least strength; negative numbers and NaN count as 0.
        max_tokens: [N] of int32: of each cut, the most segments that an image may have: the least float32 strength,
            not below `strength`, whose cut holds it is used. No budget where it is not positive.
        num_segments: K, how many segments of a cut `node` has room for; the nodes of further ones are left out.

    Returns:
        `ScaleCut(segment [N,B,L], node [N,B,K], counts [N,B], strength [N,B])`, the cuts first, so that those of one
        budget lie together.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: shapes do not agree, or K is negative.

    Note:
        No gradient. Only stored numbers are compared, so at any strength every used leaf is in exactly one segment, and
        cuts are nested exactly. If even the largest strength does not hold a budget, as with more roots than that, the
        roots are the cut, with that strength. Deterministic. One pass over each tree costs O(V); then a cut costs its
        leaves, and a budget a search among as many splits as the largest one has segments.

        Source: as in `scale_set`.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> lower = torch.tensor([[0.0, 0.0, 0.0, 0.5, 12.5]])  # leaves 0, 1, 2; 3 joins 0 and 1; 4 is the root
        >>> parent = torch.tensor([[3, 3, 4, 4, -1]], dtype=torch.int32)
        >>> round = torch.tensor([[0, 0, 0, 1, 2]], dtype=torch.int32)
        >>> budgets = torch.tensor([3, 2, 1], dtype=torch.int32)
        >>> cut = dk.scale_cut(lower, parent, round, strength=torch.zeros(3), max_tokens=budgets, num_segments=3)
        >>> cut.segment[:, 0].tolist(), cut.strength[:, 0].tolist()
        ([[0, 1, 2], [0, 0, 1], [0, 0, 0]], [0.0, 0.5, 12.5])
    """
    sizes = check_tensors(
        lower=(lower, "B V", torch.float32),
        parent=(parent, "B V", torch.int32),
        round=(round, "B V", torch.int32),
        strength=(strength, "N", torch.float32),
        max_tokens=(max_tokens, "N", torch.int32),
    )
    check_int("num_segments", num_segments, 0)
    if sizes["V"] % 2 == 0 and sizes["V"] > 0:
        raise ValueError(f"parent: expected [B,V] with V = 2 L - 1; found V = {sizes['V']}")
    return ScaleCut(*ops.scale_cut(lower, parent, round, strength, max_tokens, num_segments))
