"""Merging of the pixels of an image into a binary tree."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import register_fake

from .._checks import FLOATING, accumulation_dtype, check_choice, check_float, check_int, check_tensors
from .._schema import ops
from .merge_tree import DISTANCES, MergeTree
from .segment_moments import Moments


@register_fake("dhvt_kernels::merge_pixels")
def _(
    features: Tensor, mask: Tensor | None, distance: str, compactness: float, depth: int, noise: float = 16.0
) -> tuple[Tensor, ...]:
    batch, channels, height, width = features.shape
    nodes = max(2 * height * width - 1, 0)
    real = accumulation_dtype(features.dtype)
    return (
        features.new_empty(batch, nodes, dtype=torch.int32),
        features.new_empty(batch, nodes, dtype=torch.int32),
        features.new_empty(batch, nodes, dtype=torch.int32),
        features.new_empty(batch, nodes, channels, dtype=real),
        features.new_empty(batch, nodes, channels, dtype=real),
        features.new_empty(batch, nodes, 2, dtype=real),
        features.new_empty(batch, nodes, 4, dtype=torch.int32),
        features.new_empty(batch, nodes, dtype=torch.int32),
    )


class _MergePixels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, *others: Any) -> tuple[Tensor, ...]:
        outputs = ops.merge_pixels(features, *others)
        parent, _, node_count, node_mean = outputs[:4]
        ctx.save_for_backward(parent, node_count, node_mean)
        ctx.like = features.shape, features.dtype
        ctx.mark_non_differentiable(*(outputs[i] for i in (0, 1, 2, 5, 6, 7)))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        shape, dtype = ctx.like
        # A pixel's sum of squared deviations is 0 whatever its feature.
        grad, _ = ops.merge_tree_backward(grads[3], grads[4], *ctx.saved_tensors)
        return grad.transpose(1, 2).reshape(shape).to(dtype), None, None, None, None, None


def merge_pixels(
    features: Tensor,
    *,
    mask: Tensor | None = None,
    distance: str = "ward_length",
    compactness: float = 0.0,
    depth: int | None = None,
    noise: float = 16.0,
) -> MergeTree:
    """Merge the pixels of an image, round by round, into a binary tree: `merge_tree` with every pixel as a leaf.

    The graph is the grid of 4-neighbours with boundaries of length 1, and a pixel's moments are its own feature::

        count = 1,   mean = f,   m2 = 0,   centroid = (y, x)

    Rounds, distances and order are those of `merge_tree`; the first round reads the grid itself instead of a list of
    its edges.

    Args:
        features: [B,C,H,W] of any floating dtype, contiguous, channels_last or any view.
        mask: bool [B,H,W], False for pixels that belong to no image; they are unused leaves. None: all belong.
        distance: `"ward_length"`, `"ward_root"`, `"ward"`, `"contrast"` or `"feature"` (the published one).
        compactness: weight of the bounding-box term, in the unit of the distance; >= 0.
        depth: number of levels; `depth - 1` rounds are done, so that 1 merges nothing. Default: merge to the root.
        noise: variance of noise, in squared units of the features; > 0. For `"contrast"` alone.

    Returns:
        `MergeTree(parent [B,2L-1], round [B,2L-1], moments [B,2L-1,...])` with L = H W; leaf y W + x is the pixel
        (y, x). Moments are float32, and float64 for float64 features.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: shapes do not agree, an unknown distance, a negative compactness, a depth below 1, or a noise not
            above 0.

    Note:
        Gradients flow from the `mean` and `m2` of every node to the features, with the structure held constant; there
        is no double backward. Deterministic: bitwise equal results for any number of threads. Time is near linear in
        pixels. A distance of NaN counts as infinity, so a pixel of NaN merges after all others of its round.

        Source: Aasan et al., "Differentiable Hierarchical Visual Tokenization", NeurIPS 2025, section 3, for merging
        from the pixels; see `merge_tree`.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> tree = dk.merge_pixels(torch.tensor([[[[0.0, 1.0, 5.0, 7.0]]]]))
        >>> tree.parent[0].tolist(), tree.round[0].tolist()
        ([4, 4, 5, 5, 6, 6, -1], [0, 0, 0, 0, 1, 1, 2])
    """
    check_tensors(features=(features, "B C H W", FLOATING), mask=(mask, "B H W?", torch.bool))
    check_choice("distance", distance, DISTANCES)
    compactness = check_float("compactness", compactness, minimum=0)
    rounds = 0 if depth is None else check_int("depth", depth, 1)
    noise = check_float("noise", noise, above=0)
    rest = (mask, distance, compactness, rounds, noise)
    if torch.is_grad_enabled() and features.requires_grad:
        parent, round_, *nodes = _MergePixels.apply(features, *rest)
    else:
        parent, round_, *nodes = ops.merge_pixels(features, *rest)
    return MergeTree(parent, round_, Moments(*nodes))
