"""Features of a tree's nodes: means up the tree, weighted by size times similarity."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import register_fake

from .._checks import check_tensors
from .._schema import ops
from .merge_tree import MergeTree


@register_fake("dhvt_kernels::similarity_pool")
def _(features: Tensor, count: Tensor, parent: Tensor, round: Tensor) -> tuple[Tensor, Tensor]:
    batch, leaves, channels = features.shape
    nodes = max(2 * leaves - 1, 0)
    return features.new_empty(batch, nodes, channels), features.new_empty(batch, nodes)


@register_fake("dhvt_kernels::similarity_pool_backward")
def _(grad: Tensor, node_features: Tensor, share: Tensor, count: Tensor, parent: Tensor, round: Tensor) -> Tensor:
    batch, nodes, channels = node_features.shape
    return node_features.new_empty(batch, (nodes + 1) // 2, channels)


class _SimilarityPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, count: Tensor, parent: Tensor, round: Tensor) -> Tensor:
        node_features, share = ops.similarity_pool(features, count, parent, round)
        ctx.save_for_backward(node_features, share, count, parent, round)
        return node_features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ops.similarity_pool_backward(grads[0], *ctx.saved_tensors), None, None, None


def similarity_pool(features: Tensor, tree: MergeTree) -> Tensor:
    """Features of every node of a tree: means of its children's, weighted by size times similarity.

    A round of merging joins the regions that were there before it. Region u of n_u pixels enters with the weight::

        w_u = n_u exp(-|f_u - f_s|^2)

    where s is the node it is first joined with, and a node that the round makes is the mean of the regions below it::

        f_v = sum_u w_u f_u / sum_u w_u

    For the next round it is one region of n_v pixels. So a region that is unlike the group it joins counts less; two
    regions that join each other alone have one similarity, and give the mean of their pixels.

    Args:
        features: of the leaves, [B,L,C] of float32 or float64.
        tree: what `merge_tree` made of L leaves; its `parent`, `round` and `moments.count` are read. A node that has
            not exactly two children counts as having none.

    Returns:
        Features of the nodes, [B,2L-1,C]: those of the leaves first; 0 in unused slots.

    Raises:
        TypeError: not a `MergeTree`, or another dtype.
        ValueError: shapes do not agree.

    Note:
        Gradients flow to the features, through the weights, too, with the tree held constant; there is no double
        backward. Deterministic. Weights are kept with their exponents, in float64, so no similarity underflows. Time is
        linear. NaN in a leaf fills all nodes above it.

        Source: Aasan et al., "Differentiable Hierarchical Visual Tokenization", 2025, for the weights; there every
        region is compared with the one neighbour that it picked, and a round makes one node of a group.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> features = torch.tensor([[[[0.0, 0.1, 1.1, 9.0]]]])
        >>> labels = torch.tensor([[[0, 1, 2, 3]]], dtype=torch.int32)
        >>> moments = dk.segment_moments(features, labels, num_segments=4)
        >>> graph = dk.region_graph(labels, num_segments=4)
        >>> tree = dk.merge_tree(moments, graph.edges, graph.lengths, distance="feature")
        >>> tree.round[0].tolist(), tree.moments.mean.flatten()[4:]
        ([0, 0, 0, 0, 1, 1, 1], tensor([0.0500, 0.4000, 2.5500]))
        >>> dk.similarity_pool(moments.mean, tree).flatten()[4:]
        tensor([0.0500, 0.2008, 0.2008])
    """
    if not isinstance(tree, MergeTree):
        raise TypeError(f"tree: expected a MergeTree; found {type(tree).__name__}")
    check_tensors(features=(features, "B L C", (torch.float32, torch.float64)))
    sizes = check_tensors(
        features=(features, "B L C", features.dtype),
        parent=(tree.parent, "B V", torch.int32),
        round=(tree.round, "B V", torch.int32),
        count=(tree.moments.count, "B V", torch.int32),
    )
    if sizes["V"] != max(2 * sizes["L"] - 1, 0):
        raise ValueError(f"features: expected [B,L,C] with V = 2 L - 1 = {sizes['V']}; found L = {sizes['L']}")
    arguments = (features, tree.moments.count, tree.parent, tree.round)
    if torch.is_grad_enabled() and features.requires_grad:
        return _SimilarityPool.apply(*arguments)
    return ops.similarity_pool(*arguments)[0]
