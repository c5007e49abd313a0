"""Connected components of a label map."""

from typing import NamedTuple

from torch import Tensor
from torch.library import register_fake

from .._checks import FLOATING, LABELS, check_int, check_tensors
from .._schema import ops


class Components(NamedTuple):
    """Connected components: `labels` int32 [B,H,W] (-1 = none) and their number `counts` int32 [B]."""

    labels: Tensor
    counts: Tensor


@register_fake("dhvt_kernels::connected_components")
def _(labels: Tensor, features: Tensor | None, min_size: int, largest_only: bool) -> tuple[Tensor, Tensor]:
    return labels.new_empty(labels.shape), labels.new_empty(labels.shape[0])


def connected_components(
    labels: Tensor, *, features: Tensor | None = None, min_size: int = 0, largest_only: bool = False
) -> Components:
    """Split a label map into 4-connected components, and join small ones to their neighbours.

    A component is a maximal 4-connected set of pixels with one label. Components of at least `min_size` pixels are kept
    (with `largest_only`, of each label only the largest, the first in raster order among equals); the others are
    fragments. Fragments join in waves: each wave takes every fragment that touches a kept component or what has joined
    one, and gives it to the touching component `k` of least

        |mean(fragment) - mean(k)|^2

    then of most pixels, then the first in raster order; means and sizes are those of the components before anything
    joined. Where a connected piece of the image holds fragments only, its largest component (with `largest_only`, among
    those that are the largest of their label) is kept in spite of its size. A piece without such a one, as a small
    island between pixels without segment may be, goes where its labels' largest components go. So `largest_only` never
    gives more components than there are labels, and every component is 4-connected but for such islands.

    Args:
        labels: int32 [B,H,W]; any value >= 0 is a label, any negative value means no segment.
        features: Float [B,C,H,W] in any layout, for the means; without them all distances are 0.
        min_size: Components of fewer pixels join a neighbour.
        largest_only: Whether only the largest component of each label is kept.

    Returns:
        Components: labels int32 [B,H,W], numbered `0..counts[b]-1` in raster order of the first pixel of each kept
        component, -1 where there is no segment; counts int32 [B].

    Raises:
        TypeError: an argument is not a tensor, has another dtype, or `min_size` is not an integer.
        ValueError: shapes or devices do not agree, or `min_size` is negative.

    Note:
        No gradients: the result is discrete. Deterministic, bit for bit, for any number of threads: means are summed in
        float64 in a fixed order. A distance that is not a number counts as infinite, so NaN features only move the
        fragments that touch them. Cost: linear in the number of pixels; features are read only for fragments and
        their neighbours. At most 2^30 pixels per image.

    Source: union-find on row runs, after He, Chao and Suzuki, "A Run-Based Two-Scan Labeling Algorithm", 2008; the
    clean-up of superpixels after Achanta et al., "SLIC Superpixels", 2012.

    Example:
        >>> import torch
        >>> import dhvt_kernels as dk
        >>> labels = torch.tensor([[[7, 7, 2, 7], [7, 7, 2, 2]]], dtype=torch.int32)
        >>> dk.connected_components(labels).labels.tolist()
        [[[0, 0, 1, 2], [0, 0, 1, 1]]]
        >>> dk.connected_components(labels, min_size=2).labels.tolist()
        [[[0, 0, 1, 1], [0, 0, 1, 1]]]
    """
    check_tensors(labels=(labels, "B H W", LABELS), features=(features, "B C H W?", FLOATING))
    check_int("min_size", min_size, 0)
    if not isinstance(largest_only, bool):
        raise TypeError(f"largest_only: expected a bool; found {type(largest_only).__name__}")
    source = None if features is None else features.detach()
    return Components(*ops.connected_components(labels, source, min_size, largest_only))
