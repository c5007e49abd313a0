"""The best cut through a tree: which nodes become tokens."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import register_fake

from .._checks import check_choice, check_float, check_int, check_tensors
from .._schema import ops

SELECTIONS = ("optimal", "greedy")


class TreeCut(NamedTuple):
    """A partition of the leaves of each tree into subtrees."""

    #: Segment of each leaf: int32 [B,L]; -1 for unused leaves. Numbered in the order of each segment's lowest leaf.
    segment: Tensor
    #: Tree node of each segment: int32 [B,L]; -1 in unused slots.
    node: Tensor
    #: Number of segments of each image: int32 [B].
    counts: Tensor
    #: The strength that made the cut: float32 [B].
    strength: Tensor
    #: Probability that each node is in the relaxed cut: [B,V]; 0 for unused nodes.
    probability: Tensor
    #: Expected number of segments of the relaxed cut, the sum of the probabilities: [B].
    expected_tokens: Tensor


@register_fake("dhvt_kernels::tree_cut")
def _(
    likelihood: Tensor,
    penalty: Tensor,
    parent: Tensor,
    round: Tensor,
    select: str,
    strength: float,
    max_tokens: int,
    lookahead: int,
    min_gain: float,
    selection_temperature: float,
) -> tuple[Tensor, ...]:
    batch, nodes = parent.shape
    leaves = (nodes + 1) // 2
    return (
        parent.new_empty(batch, leaves),
        parent.new_empty(batch, leaves),
        parent.new_empty(batch),
        likelihood.new_empty(batch, dtype=torch.float32),
        likelihood.new_empty(batch, nodes),
    )


@register_fake("dhvt_kernels::tree_cut_backward")
def _(
    grad_probability: Tensor,
    likelihood: Tensor,
    penalty: Tensor,
    parent: Tensor,
    round: Tensor,
    strength: Tensor,
    selection_temperature: float,
) -> tuple[Tensor, Tensor]:
    return likelihood.new_empty(likelihood.shape), likelihood.new_empty(likelihood.shape)


class _TreeCut(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, likelihood: Tensor, penalty: Tensor, parent: Tensor, round: Tensor, *options: Any
    ) -> tuple[Tensor, ...]:
        segment, node, counts, strength, probability = ops.tree_cut(likelihood, penalty, parent, round, *options)
        ctx.save_for_backward(likelihood, penalty, parent, round, strength)
        ctx.selection_temperature = options[-1]
        ctx.mark_non_differentiable(segment, node, counts, strength)
        return segment, node, counts, strength, probability

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_likelihood, grad_penalty = ops.tree_cut_backward(grads[4], *ctx.saved_tensors, ctx.selection_temperature)
        return grad_likelihood, grad_penalty, *(None,) * 8


def tree_cut(
    likelihood: Tensor,
    penalty: Tensor,
    parent: Tensor,
    round: Tensor,
    *,
    select: str = "optimal",
    strength: float = 1.0,
    max_tokens: int | None = None,
    lookahead: int = 1,
    min_gain: float = 0.0,
    selection_temperature: float = 1.0,
) -> TreeCut:
    """Choose the nodes of a tree that become segments: every used leaf is below exactly one of them.

    A node costs ``IC(v) = likelihood_v + strength * penalty_v``, a cut the sum over its nodes. With
    ``best(v) = min(IC(v), sum of best(children))``, the relaxed cut keeps a node whole with probability
    ``pi_v = sigmoid((sum of best(children) - IC(v)) / selection_temperature)``, 1 for leaves, so that
    ``probability_v = pi_v * product over the ancestors u of (1 - pi_u)``.

    Args:
        likelihood: [B,V] of float32 or float64, the part of the cost that does not depend on the strength
            (`criterion_terms`). The tree has V = 2 L - 1 nodes, the L leaves first.
        penalty: [B,V] of the same dtype. NaN and infinity count as 0.
        parent: [B,V] of int32, -1 for roots. A parent that is not above its child, is a leaf, is unused or is out of
            range counts as -1, so any numbers make a forest. A node may have any number of children.
        round: [B,V] of int32; negative for unused nodes. An inner node without children is unused, too.
        select: `"optimal"`, the cut of least cost (where two cost the same, the coarser one), or `"greedy"`, from the
            roots down: a node is split while the best cut of its children within `lookahead` generations costs less
            than it by more than `min_gain`.
        strength: weight of the penalty, >= 0; rounded to float32.
        max_tokens: N >= 1, the most segments an image may have: the least float32 strength, not below `strength`, whose
            cut holds it is used. Default: no budget. Pass strength=0 for a number of tokens alone.
        lookahead: generations that `"greedy"` looks ahead; >= 1.
        min_gain: what a split must gain for `"greedy"`.
        selection_temperature: of the relaxed cut, in the unit of the cost; > 0.

    Returns:
        `TreeCut(segment [B,L], node [B,L], counts [B], strength [B], probability [B,V], expected_tokens [B])`.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: shapes do not agree, an unknown selection, or a number out of range.

    Note:
        Gradients flow from `probability` and `expected_tokens` to `likelihood` and `penalty`, with the strength held
        constant and through best(v) by its argmin; there is no double backward. All arithmetic is in float64 and
        deterministic. One pass over the tree costs O(V), a budget at most 34 of them (`"optimal"`: 14): it halves an
        interval of float32 numbers, ordered as their bits, down to two neighbours. Cuts at rising strength are nested
        if no penalty exceeds the sum of the children's. If even the largest strength does not hold the budget, as with
        more roots than N, the roots are the cut, with that strength.

        A likelihood of NaN or infinity counts 0 in a leaf, and the children's sum + 1e15 above: a region that holds NaN
        merges only when a budget forces it, and the rest of the image is cut as usual. No gradient flows there.

        Source: Breiman et al., "Classification and regression trees", 1984 (pruning); Guigues, Cocquerez and Le Men,
        "Scale-sets image analysis", 2006.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> likelihood = torch.tensor([[1.0, 1.0, 5.0, 2.5, 20.0]])  # leaves 0, 1, 2; 3 joins 0 and 1; 4 is the root
        >>> parent = torch.tensor([[3, 3, 4, 4, -1]], dtype=torch.int32)
        >>> round = torch.tensor([[0, 0, 0, 1, 2]], dtype=torch.int32)
        >>> cut = dk.tree_cut(likelihood, torch.ones(1, 5), parent, round)
        >>> cut.segment[0].tolist(), cut.node[0].tolist(), cut.counts.tolist()
        ([0, 0, 1], [3, 2, -1], [2])
        >>> one = dk.tree_cut(likelihood, torch.ones(1, 5), parent, round, max_tokens=1)
        >>> one.node[0].tolist(), one.strength.tolist()  # 20 + 12.5 = 2.5 + 5 + 2 * 12.5
        ([4, -1, -1], [12.5])
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
    options = (
        check_choice("select", select, SELECTIONS),
        check_float("strength", strength, minimum=0),
        0 if max_tokens is None else check_int("max_tokens", max_tokens, 1),
        check_int("lookahead", lookahead, 1),
        check_float("min_gain", min_gain),
        check_float("selection_temperature", selection_temperature, above=0),
    )
    if strength > torch.finfo(torch.float32).max:
        raise ValueError(f"strength: expected a float32 number; found {strength}")
    if torch.is_grad_enabled() and (likelihood.requires_grad or penalty.requires_grad):
        outputs = _TreeCut.apply(likelihood, penalty, parent, round, *options)
    else:
        outputs = ops.tree_cut(likelihood, penalty, parent, round, *options)
    segment, node, counts, used_strength, probability = outputs
    return TreeCut(segment, node, counts, used_strength, probability, probability.sum(1))
