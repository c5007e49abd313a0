"""Hierarchy: a binary tree of regions per image, from which every budget is cut."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from torch import Tensor

from ._checks import check_choice, check_float, check_int
from .ops import (
    CRITERIA,
    SELECTIONS,
    MergeTree,
    ScaleSet,
    criterion_terms,
    relabel,
    saliency,
    scale_set,
    tree_cut,
)
from .partition import Partition, SoftLeaves
from .scales import at_nodes, cut_cost, cut_scales, partitions


@dataclass(frozen=True)
class Selection:
    """How a tree is cut: the criterion, its strength, and the budget."""

    criterion: str = "bic"
    noise: float = 16.0
    pixel_correlation: float = 4.0
    strength: float = 1.0
    max_tokens: int | None = None
    select: str = "optimal"
    lookahead: int = 1
    min_gain: float = 0.0
    selection_temperature: float = 16.0

    def __post_init__(self) -> None:
        check_choice("criterion", self.criterion, (*CRITERIA, "fixed"))
        check_float("noise", self.noise, above=0)
        check_float("pixel_correlation", self.pixel_correlation, above=0)
        check_float("strength", self.strength, minimum=0)
        if self.max_tokens is not None:
            check_int("max_tokens", self.max_tokens, 1)
        elif self.criterion == "fixed":
            raise ValueError('criterion: "fixed" expects max_tokens, the number of tokens; found None')
        check_choice("select", self.select, SELECTIONS)
        check_int("lookahead", self.lookahead, 1)
        check_float("min_gain", self.min_gain)
        check_float("selection_temperature", self.selection_temperature, above=0)


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """A binary tree of regions per image, with statistics on every node: one build serves every number of tokens."""

    leaves: Tensor
    """int32 `[B,H,W]`: leaf of each pixel; -1 for pixels of no image."""
    tree: MergeTree
    """`parent`, `round` and `moments` of the `2L - 1` nodes."""
    selection: Selection
    """What `cut` uses unless told otherwise."""
    complete: bool
    """Merged to the root, so that any budget can be met."""
    node_features: Tensor
    """`[B,2L-1,C]`: features of every node, differentiable; averaged as the tokenizer's `weights` says."""
    soft: SoftLeaves | None = None
    """The soft superpixels below; None with pixel leaves."""

    def __len__(self) -> int:
        return self.leaves.shape[0]

    @property
    def num_leaves(self) -> int:
        """Leaf capacity L."""
        return (self.tree.parent.shape[1] + 1) // 2

    def terms(self, selection: Selection | None = None) -> tuple[Tensor, Tensor]:
        """Likelihood and penalty of every node, `[B,2L-1]` each: a node costs `likelihood + strength * penalty`."""
        selection = selection or self.selection
        num_pixels = self.tree.moments.count[:, : self.num_leaves].sum(1, dtype=torch.int32)
        # At a given number of tokens every constant penalty gives the same cut.
        criterion = "bic" if selection.criterion == "fixed" else selection.criterion
        return criterion_terms(
            self.tree.moments,
            criterion=criterion,
            noise=selection.noise,
            pixel_correlation=selection.pixel_correlation,
            num_pixels=num_pixels,
        )

    @overload
    def cut(self, *, max_tokens: Sequence[int], **changes: Any) -> list[Partition]: ...
    @overload
    def cut(self, *, strength: Sequence[float], **changes: Any) -> list[Partition]: ...
    @overload
    def cut(self, **changes: Any) -> Partition: ...
    def cut(self, **changes: Any) -> Partition | list[Partition]:
        """Cut the tree into a partition; or, at several budgets or strengths at once, into as many.

        Args:
            **changes: any of the tokenizer's arguments that concern the selection, for this cut only: `criterion`,
                `noise`, `pixel_correlation`, `strength`, `max_tokens`, `select`, `lookahead`, `min_gain`,
                `selection_temperature`. With a sequence of `max_tokens` or of `strength`, or two of one length, there
                is a cut for each entry, all from one scale set (`scale_set`).

        Returns:
            `Partition` with capacity `K = min(max_tokens, L)`, or L without a budget or where the tree stops below the
            root; a list of them where a sequence was given.

        Raises:
            TypeError: an unknown argument.
            ValueError: a value out of range, sequences of different length, or a sequence with `select="greedy"`, whose
                cuts at rising strength are not nested.

        Note:
            The pixels are not touched but for writing their labels; the cut itself works on the tree. With a budget the
            strength is the least one, not below `strength`, that meets it. Cuts of one hierarchy at rising strength
            (falling budgets) are nested.

            With a budget, or several cuts at once, `counts`, `node` and `strength` are there at once; `labels`, `cost`,
            `probability` and `expected_tokens` are computed when they are first asked for, with the gradients that a
            cut without a budget has. One pass over the tree serves all cuts; each label map is a pass over the pixels.

        Example:
            >>> import torch, dhvt_kernels as dk
            >>> hierarchy = dk.Tokenizer().hierarchy(torch.rand(1, 3, 64, 64))
            >>> bool(hierarchy.cut(max_tokens=8).counts <= 8)
            True
            >>> [partition.num_segments for partition in hierarchy.cut(max_tokens=[4, 16])]
            [4, 16]
        """
        many = {name: value for name, value in changes.items() if name in _SEVERAL and isinstance(value, Sequence)}
        if many:
            return self._cuts(many, {name: value for name, value in changes.items() if name not in many})
        selection = replace(self.selection, **changes) if changes else self.selection
        if selection.max_tokens is not None and selection.select == "optimal":
            # A scale set finds the strength of a budget at once; tree_cut would search it cut by cut.
            changes.pop("max_tokens", None)
            return self._cuts({"max_tokens": [selection.max_tokens]}, changes)[0]
        likelihood, penalty = self.terms(selection)
        strength = 0.0 if selection.criterion == "fixed" else selection.strength
        cut = tree_cut(
            likelihood,
            penalty,
            self.tree.parent,
            self.tree.round,
            select=selection.select,
            strength=strength,
            max_tokens=selection.max_tokens,
            lookahead=selection.lookahead,
            min_gain=selection.min_gain,
            selection_temperature=selection.selection_temperature,
        )
        capacity = self._capacity(selection.max_tokens)
        return Partition(
            labels=relabel(self.leaves, cut.segment),
            counts=cut.counts,
            num_segments=capacity,
            node=cut.node[:, :capacity],
            strength=cut.strength,
            cost=cut_cost(cut.node[:, :capacity], cut.strength, likelihood, penalty),
            probability=at_nodes(cut.node, cut.probability)[:, :capacity],
            expected_tokens=cut.expected_tokens,
            node_features=self.node_features,
            soft=self.soft,
        )

    def _capacity(self, max_tokens: int | None) -> int:
        return min(max_tokens, self.num_leaves) if max_tokens is not None and self.complete else self.num_leaves

    def _cuts(self, many: dict[str, Sequence[Any]], changes: dict[str, Any]) -> list[Partition]:
        """`cut`, once for each entry of the sequences."""
        lengths = {name: len(values) for name, values in many.items()}
        number = max(lengths.values())
        if min(lengths.values()) != number:
            raise ValueError(f"strength, max_tokens: expected sequences of one length; found {lengths}")
        if number == 0:
            return []
        selection = replace(self.selection, **changes, **{name: values[0] for name, values in many.items()})
        if selection.select != "optimal":
            raise ValueError(
                f'select: expected "optimal" for several cuts at once; found {selection.select!r}, whose cuts are not '
                "nested: make one after the other"
            )
        budgets: list[int | None] = [selection.max_tokens] * number
        if "max_tokens" in many:
            budgets = [check_int("max_tokens", value, 1) for value in many["max_tokens"]]
        strengths = [selection.strength] * number
        if "strength" in many:
            strengths = [check_float("strength", value, minimum=0) for value in many["strength"]]
        if selection.criterion == "fixed":
            strengths = [0.0] * number
        if max(strengths) > torch.finfo(torch.float32).max:
            raise ValueError(f"strength: expected float32 numbers; found {max(strengths)}")
        terms = self.terms(selection)
        capacities = [self._capacity(budget) for budget in budgets]
        cuts = cut_scales(
            scale_set(*terms, self.tree.parent, self.tree.round),
            self.tree,
            strengths=strengths,
            budgets=[budget or 0 for budget in budgets],
            num_segments=max(capacities),
        )
        return partitions(
            cuts,
            self.leaves,
            capacities,
            terms=terms,
            tree=self.tree,
            selection_temperature=selection.selection_temperature,
            node_features=self.node_features,
            soft=self.soft,
        )

    def scale_set(self, **changes: Any) -> ScaleSet:
        """At which strengths each node is in the optimal cut: every cut of the tree at once.

        Args:
            **changes: `criterion`, `noise` and `pixel_correlation`, as for `cut`; strength and budget play no part.

        Returns:
            `ScaleSet(lower [B,2L-1], upper [B,2L-1])`, float32: a node is in the cuts of the strengths
            `lower <= s < upper`.

        Raises:
            TypeError: an unknown argument.
            ValueError: a value out of range.

        Example:
            >>> import torch, dhvt_kernels as dk
            >>> hierarchy = dk.Tokenizer().hierarchy(torch.rand(1, 3, 64, 64))
            >>> scales = hierarchy.scale_set()
            >>> chosen = (scales.lower <= 2.5) & (2.5 < scales.upper)
            >>> bool(chosen.sum() == hierarchy.cut(strength=2.5).counts)
            True
        """
        selection = replace(self.selection, **changes) if changes else self.selection
        return scale_set(*self.terms(selection), self.tree.parent, self.tree.round)

    def saliency(self, **changes: Any) -> Tensor:
        """The strength of each boundary: the ultrametric contour map.

        Args:
            **changes: `criterion`, `noise` and `pixel_correlation`, as for `cut`.

        Returns:
            float32 `[B,H,W]`: the strength from which on a pixel is in one segment with its right and its lower
            neighbour. 0 inside leaves, the largest float32 where two trees meet (see the operator `saliency`). The
            pixels above `s` are the boundaries of `cut(strength=s)`, but for those with pixels of no image.

        Raises:
            TypeError: an unknown argument.
            ValueError: a value out of range.

        Example:
            >>> import torch, dhvt_kernels as dk
            >>> hierarchy = dk.Tokenizer().hierarchy(torch.rand(1, 3, 64, 64))
            >>> bool(((hierarchy.saliency() > 2.5) == hierarchy.cut(strength=2.5).boundaries()).all())
            True
        """
        return saliency(self.leaves, self.scale_set(**changes).lower, self.tree.parent, self.tree.round)


#: Arguments of `cut` of which it takes several.
_SEVERAL = ("strength", "max_tokens")
