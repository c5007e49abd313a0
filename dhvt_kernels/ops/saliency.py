"""How strong each boundary between leaves is: the ultrametric contour map of a scale set."""

import torch
from torch import Tensor
from torch.library import register_fake

from .._checks import LABELS, check_tensors
from .._schema import ops


@register_fake("dhvt_kernels::saliency")
def _(labels: Tensor, lower: Tensor, parent: Tensor, round: Tensor) -> Tensor:
    return labels.new_empty(labels.shape, dtype=torch.float32)


def saliency(labels: Tensor, lower: Tensor, parent: Tensor, round: Tensor) -> Tensor:
    """The strength at which a boundary between leaves disappears, at every pixel: the ultrametric contour map.

    Two leaves come into one segment at `lower` of their lowest common ancestor. A pixel takes the greater of that
    strength for its pairs with the pixel to the right and with that below::

        out[b,y,x] = max(joins(labels[b,y,x], labels[b,y,x+1]), joins(labels[b,y,x], labels[b,y+1,x]))

    So the pixels above s are those at the right or lower boundary of a segment of the cut at s, for every s.

    Args:
        labels: int32 [B,H,W], the leaf of each pixel; negative, or L and more, for pixels without one.
        lower: [B,V] of float32, from `scale_set`. The tree has V = 2 L - 1 nodes, the L leaves first.
        parent: [B,V] of int32, as in `scale_set`.
        round: [B,V] of int32, as in `scale_set`.

    Returns:
        float32 [B,H,W], >= 0 and finite: 0 inside leaves and for pairs with a pixel that has no leaf; the largest
        float32, 3.4e38, for leaves that never come into one segment, as those of two trees of a forest.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: shapes do not agree.

    Note:
        No gradient. Deterministic. A pair of different leaves walks up to its lowest common ancestor, some 20 steps in
        the tree of a photograph; the CPU leaves out the nodes that join nothing (`lower` is that of their parent).

        Source: Arbelaez, "Boundary extraction in natural images using ultrametric contour maps", 2006; Guigues,
        Cocquerez and Le Men, "Scale-sets image analysis", 2006.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> labels = torch.tensor([[[0, 0, 1, 2]]], dtype=torch.int32)
        >>> lower = torch.tensor([[0.0, 0.0, 0.0, 0.5, 12.5]])  # leaves 0, 1, 2; 3 joins 0 and 1; 4 is the root
        >>> parent = torch.tensor([[3, 3, 4, 4, -1]], dtype=torch.int32)
        >>> round = torch.tensor([[0, 0, 0, 1, 2]], dtype=torch.int32)
        >>> dk.saliency(labels, lower, parent, round).tolist()
        [[[0.0, 0.5, 12.5, 0.0]]]
    """
    sizes = check_tensors(
        labels=(labels, "B H W", LABELS),
        lower=(lower, "B V", torch.float32),
        parent=(parent, "B V", torch.int32),
        round=(round, "B V", torch.int32),
    )
    if sizes["V"] % 2 == 0 and sizes["V"] > 0:
        raise ValueError(f"parent: expected [B,V] with V = 2 L - 1; found V = {sizes['V']}")
    return ops.saliency(labels, lower, parent, round)
