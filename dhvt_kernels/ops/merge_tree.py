"""Merging of a region graph into a binary tree."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import register_fake

from .._checks import check_choice, check_float, check_int, check_tensors
from .._schema import ops
from .segment_moments import Moments

DISTANCES = ("ward_length", "ward_root", "ward", "feature", "contrast")
ORDERS = ("rounds", "best")


class MergeTree(NamedTuple):
    """A binary tree per image in V = 2 L - 1 node slots: the L leaves first, then merges in their order."""

    #: Parent of each node, always above it: int32 [B,V]; -1 for roots and unused slots.
    parent: Tensor
    #: 0 for leaves, the round of merging (from 1) for inner nodes, -1 for unused slots: int32 [B,V].
    round: Tensor
    #: Statistics of the pixels of each node, `Moments` of shape [B,V,...]; those of an empty segment in unused slots.
    moments: Moments


@register_fake("dhvt_kernels::merge_best")
@register_fake("dhvt_kernels::merge_tree")
def _(
    count: Tensor,
    mean: Tensor,
    m2: Tensor,
    centroid: Tensor,
    box: Tensor,
    boundary: Tensor,
    edges: Tensor,
    lengths: Tensor,
    distance: str,
    compactness: float,
    depth: int,
    noise: float = 16.0,
) -> tuple[Tensor, ...]:
    batch, leaves, channels = mean.shape
    nodes = max(2 * leaves - 1, 0)
    return (
        count.new_empty(batch, nodes),
        count.new_empty(batch, nodes),
        count.new_empty(batch, nodes),
        mean.new_empty(batch, nodes, channels),
        mean.new_empty(batch, nodes, channels),
        mean.new_empty(batch, nodes, 2),
        count.new_empty(batch, nodes, 4),
        count.new_empty(batch, nodes),
    )


@register_fake("dhvt_kernels::merge_tree_backward")
def _(
    grad_mean: Tensor, grad_m2: Tensor, parent: Tensor, node_count: Tensor, node_mean: Tensor
) -> tuple[Tensor, Tensor]:
    batch, nodes, channels = node_mean.shape
    shape = (batch, (nodes + 1) // 2, channels)
    return node_mean.new_empty(shape), node_mean.new_empty(shape)


def _operator(order: str) -> Callable[..., tuple[Tensor, ...]]:
    return cast(Callable[..., tuple[Tensor, ...]], ops.merge_best if order == "best" else ops.merge_tree)


class _MergeTree(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mean: Tensor, m2: Tensor, order: str, *others: Any) -> tuple[Tensor, ...]:
        count, rest = others[0], others[1:]
        outputs = _operator(order)(count, mean, m2, *rest)
        parent, _, node_count, node_mean = outputs[:4]
        ctx.save_for_backward(parent, node_count, node_mean)
        ctx.mark_non_differentiable(*outputs[:3], *outputs[5:])
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_mean, grad_m2 = ops.merge_tree_backward(grads[3], grads[4], *ctx.saved_tensors)
        return grad_mean, grad_m2, *(None,) * 11


def merge_tree(
    moments: Moments,
    edges: Tensor,
    lengths: Tensor,
    *,
    distance: str = "ward_length",
    order: str = "rounds",
    compactness: float = 0.0,
    depth: int | None = None,
    noise: float = 16.0,
) -> MergeTree:
    """Merge neighbouring regions into a binary tree, round by round or the nearest pair of all first.

    With order `"rounds"`, in each round every region u picks the neighbour v of least ``(D(u, v), node of v)``; none
    declines. The picked pairs merge two by two in the order ``(D, lower node, higher node)``, each making a new node,
    and the connected groups are the next round's regions. The distances are those at the beginning of the round, with
    ``S = |mean_u - mean_v|^2``, n the pixel counts and l_uv the length of the common boundary::

        feature:      D = S
        ward:         D = n_u n_v / (n_u + n_v) S
        ward_length:  D = n_u n_v / (n_u + n_v) S / l_uv
        ward_root:    D = n_u n_v / (n_u + n_v) S / sqrt(l_uv)
        contrast:     D = (200 + n_u n_v / (n_u + n_v)) / (80 + l_uv) (S' + 1 - fill)
                      S' = sum_c (mean_u - mean_v)_c^2 / (v_c + noise),   v_c = (m2_u + m2_v)_c / (n_u + n_v)
                      fill = 4 (n_u + n_v) / (h + w)^2

    where h, w are the sides of the union's bounding box; and for compactness > 0, D grows by
    ``compactness (1 - fill)``.

    With order `"best"` the nearest pair of all merges, and that is a round. Where a row of mixed regions lies between
    two others, a round often joins all of them; this does not. Distances are looked at where there is reason to: at
    the beginning, in the order of the pairs; after a merge those of the region of fewer pixels (of equal ones the
    higher node), which the union takes over, in the order of its neighbours; and when a pair's turn comes. Where its
    distance has grown since, it waits for another turn, else it merges. Of equal distances the one that was looked at
    first has its turn first.

    Args:
        moments: of the leaves, `Moments` of shape [B,L,...]: float32 or float64 where floating. A leaf whose count is 0
            is an unused slot. The counts of an image must add up to less than 2^31.
        edges: [B,E,2] of int32, pairs of neighbouring leaves. Edges between a leaf and itself, to an unused leaf, with
            an index outside [0, L) or with a length < 1 are ignored; parallel ones add up.
        lengths: [B,E] of int32, the length of the boundary that each edge stands for, in pixel pairs.
        distance: `"ward_length"`, `"ward_root"`, `"ward"`, `"feature"` or `"contrast"`.
        compactness: weight of the bounding-box term, in the unit of the distance; >= 0.
        order: `"rounds"`, or `"best"` for one merge per round.
        depth: number of levels; `depth - 1` rounds are done, so that 1 merges nothing. Default: merge to the root.
        noise: variance of noise, in squared units of the features; > 0. For `"contrast"` alone.

    Returns:
        `MergeTree(parent [B,2L-1], round [B,2L-1], moments [B,2L-1,...])`. Leaf i is node i. A graph that is not
        connected has several roots.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: shapes do not agree, an unknown distance or order, a negative compactness, a depth below 1, a noise
            not above 0, or order `"best"` elsewhere than on the CPU.

    Note:
        Gradients flow from the `mean` and `m2` of every node to those of the leaves, with the structure held constant;
        there is no double backward. Deterministic: bitwise equal results for any number of threads, and the order of
        `edges` does not matter. Images run in parallel, one thread each. Time is near linear in leaves and edges, also
        where all distances are equal. A distance of NaN counts as infinity, so a region that holds NaN merges
        after all others of its round.

        Source: minimum spanning forests by Boruvka's rounds; Ward, "Hierarchical grouping to optimize an objective
        function", 1963; moments by Chan, Golub and LeVeque, 1979.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> features = torch.tensor([[[[0.0, 1.0, 5.0, 7.0]]]])
        >>> labels = torch.tensor([[[0, 1, 2, 3]]], dtype=torch.int32)
        >>> moments = dk.segment_moments(features, labels, num_segments=4)
        >>> graph = dk.region_graph(labels, num_segments=4)
        >>> tree = dk.merge_tree(moments, graph.edges, graph.lengths)
        >>> tree.parent[0].tolist(), tree.round[0].tolist()
        ([4, 4, 5, 5, 6, 6, -1], [0, 0, 0, 0, 1, 1, 2])
        >>> tree.moments.mean.flatten()[4:]
        tensor([0.5000, 6.0000, 3.2500])
    """
    if not isinstance(moments, Moments):
        raise TypeError(f"moments: expected Moments; found {type(moments).__name__}")
    mean = moments.mean
    check_tensors(mean=(mean, "B L C", (torch.float32, torch.float64)))
    check_tensors(
        count=(moments.count, "B L", torch.int32),
        mean=(mean, "B L C", mean.dtype),
        m2=(moments.m2, "B L C", mean.dtype),
        centroid=(moments.centroid, "B L 2", mean.dtype),
        box=(moments.box, "B L 4", torch.int32),
        boundary=(moments.boundary, "B L", torch.int32),
        edges=(edges, "B E 2", torch.int32),
        lengths=(lengths, "B E", torch.int32),
    )
    check_choice("distance", distance, DISTANCES)
    check_choice("order", order, ORDERS)
    if order == "best" and mean.device.type != "cpu":
        raise ValueError(f'order: expected tensors on the CPU for "best"; found {mean.device}')
    compactness = check_float("compactness", compactness, minimum=0)
    rounds = 0 if depth is None else check_int("depth", depth, 1)
    noise = check_float("noise", noise, above=0)
    rest = (moments.centroid, moments.box, moments.boundary, edges, lengths, distance, compactness, rounds, noise)
    if torch.is_grad_enabled() and (mean.requires_grad or moments.m2.requires_grad):
        parent, round_, *nodes = _MergeTree.apply(mean, moments.m2, order, moments.count, *rest)
    else:
        parent, round_, *nodes = _operator(order)(moments.count, mean, moments.m2, *rest)
    return MergeTree(parent, round_, Moments(*nodes))
