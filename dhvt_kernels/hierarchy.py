"""Hierarchy: a binary tree of regions per image, from which every budget is cut."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ._checks import check_choice, check_float, check_int
from .ops import CRITERIA, SELECTIONS, MergeTree, criterion_terms, relabel, segment_gather, tree_cut
from .partition import Partition, SoftLeaves


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

    def cut(self, **changes: object) -> Partition:
        """Cut the tree into a partition.

        Args:
            **changes: any of the tokenizer's arguments that concern the selection, for this cut only: `criterion`,
            `noise`,
                `pixel_correlation`, `strength`, `max_tokens`, `select`, `lookahead`, `min_gain`,
                `selection_temperature`.

        Returns:
            `Partition` with capacity `K = min(max_tokens, L)`, or L without a budget or where the tree stops below the
            root.

        Raises:
            TypeError: an unknown argument.
            ValueError: a value out of range.

        Note:
            The pixels are not touched but for writing their labels; the cut itself works on the tree. With a budget the
            strength is the least one, not below `strength`, that meets it. Cuts of one hierarchy at rising strength
            (falling budgets) are nested.

        Example:
            >>> import torch, dhvt_kernels as dk
            >>> hierarchy = dk.Tokenizer().hierarchy(torch.rand(1, 3, 64, 64))
            >>> bool(hierarchy.cut(max_tokens=8).counts <= 8)
            True
        """
        selection = replace(self.selection, **changes) if changes else self.selection  # type: ignore[arg-type]
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
        capacity = self.num_leaves
        if selection.max_tokens is not None and self.complete:
            capacity = min(selection.max_tokens, capacity)
        with torch.no_grad():
            cost = torch.addcmul(likelihood, cut.strength[:, None], penalty)
        return Partition(
            labels=relabel(self.leaves, cut.segment),
            counts=cut.counts,
            num_segments=capacity,
            node=cut.node[:, :capacity],
            strength=cut.strength,
            cost=_at(cut.node, cost).sum(1),
            probability=_at(cut.node, cut.probability)[:, :capacity],
            expected_tokens=cut.expected_tokens,
            soft=self.soft,
        )


def _at(node: Tensor, values: Tensor) -> Tensor:
    """`values [B,V]` of the nodes `[B,K]`; 0 in unused slots. One kernel, and its gradient is one."""
    return segment_gather(values.unsqueeze(-1), node.unsqueeze(1))[:, 0, 0]
