"""The scale set of a tree: at which strengths each node is in the cut of least cost."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.library import register_fake

from .._checks import check_tensors
from .._schema import ops


class ScaleSet(NamedTuple):
    """Of each node, the strengths `lower <= s < upper` at which it is in the cut of least cost."""

    #: float32 [B,V]: from this strength on the node's leaves are in one segment; 0 for leaves. Where it is `upper`, the
    #: node is in no cut; infinite for nodes that never are one segment, and for unused ones.
    lower: Tensor
    #: float32 [B,V]: from this strength on they are in a larger one: `lower` of the parent; infinite for roots.
    upper: Tensor


@register_fake("dhvt_kernels::scale_set")
def _(likelihood: Tensor, penalty: Tensor, parent: Tensor, round: Tensor) -> tuple[Tensor, Tensor]:
    return (
        parent.new_empty(parent.shape, dtype=torch.float32),
        parent.new_empty(parent.shape, dtype=torch.float32),
    )


def scale_set(likelihood: Tensor, penalty: Tensor, parent: Tensor, round: Tensor) -> ScaleSet:
    """The range of strengths at which each node of a tree is in the cut of least cost: all such cuts at once.

    A node costs ``likelihood_v + s * penalty_v`` at the strength s, and the best cut below it
    ``E_v(s) = min(likelihood_v + s * penalty_v, sum of the children's E(s))``, a concave function made of lines. Where
    no penalty exceeds the sum of the children's, there is one strength ``scale_v >= 0`` from which on the node itself
    costs no more than the best cut below it, the cuts at rising strength are nested, and

        lower_v = min(scale_v, upper_v),    upper_v = min over the ancestors u of scale_u = lower_parent(v).

    The cut of any strength is then a comparison of stored numbers (`scale_cut`), and so is the strength at which two
    leaves come into one segment: `lower` of their lowest common ancestor (`saliency`).

    Args:
        likelihood: [B,V] of float32 or float64, the part of the cost that does not depend on the strength
            (`criterion_terms`). The tree has V = 2 L - 1 nodes, the L leaves first.
        penalty: [B,V] of the same dtype. NaN and infinity count as 0.
        parent: [B,V] of int32, -1 for roots; any numbers make a forest, as in `tree_cut`.
        round: [B,V] of int32; negative for unused nodes. An inner node without children is unused, too.

    Returns:
        `ScaleSet(lower [B,V], upper [B,V])` in float32: at any strength s >= 0 the nodes with ``lower <= s < upper``
        are a partition of the used leaves.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: shapes do not agree.

    Note:
        No gradient: the ranges are constants, as the strength of a budget is in `tree_cut`. All arithmetic is in
        float64 and deterministic; a scale becomes the least float32 not below it, so a float32 strength compares with
        both alike. At a strength where two cuts cost the same up to rounding, `tree_cut` may take the other. One pass
        up the tree with a heap of the strengths at which the cost below a node changes its slope, O(V log V), and one
        down.

        A likelihood of NaN or infinity counts 0 in a leaf, and the children's sum + 1e15 above, as in `tree_cut`;
        ancestors of such a node that are finite have their scale to about 1 / penalty only.

        Where a penalty does exceed the sum of the children's (none of `criterion_terms` does), the ranges are still
        consistent and the cuts nested, but they need not be those of least cost: such a node enters at 0 if its
        likelihood is not above that of the cut below it at the largest strengths, and else never.

        Source: Guigues, Cocquerez and Le Men, "Scale-sets image analysis", 2006.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> likelihood = torch.tensor([[1.0, 1.0, 5.0, 2.5, 20.0]])  # leaves 0, 1, 2; 3 joins 0 and 1; 4 is the root
        >>> parent = torch.tensor([[3, 3, 4, 4, -1]], dtype=torch.int32)
        >>> round = torch.tensor([[0, 0, 0, 1, 2]], dtype=torch.int32)
        >>> scales = dk.scale_set(likelihood, torch.ones(1, 5), parent, round)
        >>> scales.lower.tolist(), scales.upper.tolist()  # 2.5 + s = 1 + 1 + 2 s, and 20 + s = 2.5 + 5 + 2 s
        ([[0.0, 0.0, 0.0, 0.5, 12.5]], [[0.5, 0.5, 12.5, 12.5, inf]])
    """
    check_tensors(likelihood=(likelihood, "B V", (torch.float32, torch.float64)))
    sizes = check_tensors(
        likelihood=(likelihood, "B V", likelihood.dtype),
        penalty=(penalty, "B V", likelihood.dtype),
        parent=(parent, "B V", torch.int32),
        round=(round, "B V", torch.int32),
    )
    if sizes["V"] % 2 == 0 and sizes["V"] > 0:
        raise ValueError(f"parent: expected [B,V] with V = 2 L - 1; found V = {sizes['V']}")
    return ScaleSet(*ops.scale_set(likelihood.detach(), penalty.detach(), parent, round))
