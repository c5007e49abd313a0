"""Many cuts of one hierarchy from its scale set."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._checks import check_int
from .ops import MergeTree, ScaleCut, ScaleSet, relabel, scale_cut, segment_gather, tree_cut
from .partition import Partition, SoftLeaves


def at_nodes(node: Tensor, values: Tensor) -> Tensor:
    """`values [B,V]` of the nodes `[B,K]`; 0 in unused slots. One kernel, and its gradient is one."""
    return segment_gather(values.unsqueeze(-1), node.unsqueeze(1))[:, 0, 0]


def cut_cost(node: Tensor, strength: Tensor, likelihood: Tensor, penalty: Tensor) -> Tensor:
    """`[B]`: what cuts of nodes `[B,K]` cost at a strength `[B]`; without gradient."""
    with torch.no_grad():
        return at_nodes(node, torch.addcmul(likelihood, strength[:, None], penalty)).sum(1)


class ScalePartition(Partition):
    """A cut of a scale set: what takes a pass over the pixels or over the tree is computed when it is asked for.

    That is labels, cost, probabilities and expected tokens: then what one cut on its own would have computed, with the
    gradient mode of the time of the cut.
    """

    def __init__(self, **attributes: Any) -> None:
        # What is computed later is not set: Python calls __getattr__ for it.
        self.__dict__.update(attributes)

    @property
    def selection_gradient(self) -> bool:
        return self._gradient

    def __getattr__(self, name: str) -> Any:
        if name == "labels":
            self.__dict__["labels"] = relabel(self._leaves, self._segment)
        elif name == "cost":
            self.__dict__["cost"] = cut_cost(self.node, self.strength, *self._terms)
        elif name in ("probability", "expected_tokens"):
            self._relax()
        else:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self.__dict__[name]

    def trim(self, length: int) -> Partition:
        """As of a partition; what has not been computed is not computed for it."""
        check_int("length", length, 1)
        changed = {**self.__dict__, "num_segments": length, "node": self.node[:, :length]}
        if "probability" in changed:
            changed["probability"] = changed["probability"][:, :length]
        return ScalePartition(**changed)

    def _relax(self) -> None:
        likelihood, penalty = self._terms
        with torch.set_grad_enabled(self._gradient):
            # A strength for each image: in float64 its product with the penalty is what tree_cut computes itself.
            relaxed = tree_cut(
                likelihood.double(),
                penalty.double() * self.strength.double()[:, None],
                self._tree.parent,
                self._tree.round,
                selection_temperature=self._selection_temperature,
            )
            probability = relaxed.probability.to(likelihood.dtype)
            self.__dict__["probability"] = at_nodes(self.node, probability)
            self.__dict__["expected_tokens"] = probability.sum(1)


def _numbers(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A vector on a device; nothing is copied there for one number, so that a CUDA graph can record it."""
    if len(values) == 1:
        return torch.full((1,), values[0], dtype=dtype, device=device)
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


def cut_scales(
    scales: ScaleSet, tree: MergeTree, *, strengths: Sequence[float], budgets: Sequence[int], num_segments: int
) -> ScaleCut:
    """`scale_cut` with Python numbers; a budget of 0 is none."""
    device = tree.parent.device
    return scale_cut(
        scales.lower,
        tree.parent,
        tree.round,
        strength=_numbers(strengths, torch.float32, device),
        max_tokens=_numbers(budgets, torch.int32, device),
        num_segments=num_segments,
    )


def partitions(
    cuts: ScaleCut,
    leaves: Tensor,
    capacities: Sequence[int],
    *,
    terms: tuple[Tensor, Tensor],
    tree: MergeTree,
    selection_temperature: float,
    node_features: Tensor,
    soft: SoftLeaves | None,
) -> list[Partition]:
    """The partition of the pixels for each cut."""
    gradient = torch.is_grad_enabled() and any(term.requires_grad for term in terms)
    return [
        ScalePartition(
            _terms=terms,
            _tree=tree,
            _selection_temperature=selection_temperature,
            _gradient=gradient,
            _leaves=leaves,
            _segment=segment,
            counts=counts,
            num_segments=capacity,
            node=node[:, :capacity],
            strength=strength,
            node_features=node_features,
            soft=soft,
        )
        for segment, counts, capacity, node, strength in zip(
            cuts.segment.unbind(),
            cuts.counts.unbind(),
            capacities,
            cuts.node.unbind(),
            cuts.strength.unbind(),
            strict=True,
        )
    ]
