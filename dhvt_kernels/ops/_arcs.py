"""Validation of arcs and of chains of points."""

import torch
from torch import Tensor

from .._checks import LABELS, check_tensors
from .trace import Arcs

Dtypes = tuple[torch.dtype, ...] | torch.dtype


def check_arcs(arcs: Arcs) -> None:
    """Arcs of `trace`, whatever became of their points: dtypes, shapes, and offsets that lead to points."""
    if not isinstance(arcs, Arcs):
        raise TypeError(f"arcs: expected Arcs; found {type(arcs).__name__}")
    columns: dict[str, tuple[Tensor, str, Dtypes]] = {
        "arcs.closed": (arcs.closed, "A", torch.bool),
        "arcs.left": (arcs.left, "A", LABELS),
        "arcs.right": (arcs.right, "A", LABELS),
        "arcs.ring_arcs": (arcs.ring_arcs, "S", LABELS),
        "arcs.ring_offsets": (arcs.ring_offsets, "N", torch.int64),
    }
    check_tensors(**columns)
    check_chains("arcs", arcs.points, arcs.offsets, arcs.closed, LABELS, 2 + 2 * arcs.closed)


def check_chains(
    name: str,
    points: Tensor,
    offsets: Tensor,
    closed: Tensor,
    dtypes: Dtypes,
    least: Tensor | int,
) -> None:
    """Points [P,2] on the CPU, in A chains of at least so many points each."""
    columns: dict[str, tuple[Tensor, str, Dtypes]] = {
        f"{name}.points": (points, "P 2", dtypes),
        f"{name}.offsets": (offsets, "N", torch.int64),
        f"{name}.closed": (closed, "A", torch.bool),
    }
    sizes = check_tensors(**columns)
    if points.device.type != "cpu":
        raise ValueError(f"{name}.points: expected a tensor on the CPU; found {points.device}")
    check_offsets(f"{name}.offsets", offsets, sizes["A"], sizes["P"])
    if bool((offsets.diff() < least).any()):
        raise ValueError(f"{name}.offsets: expected at least 2 points for every chain, 4 for a closed arc")


def check_offsets(name: str, offsets: Tensor, chains: int, points: int) -> None:
    """Offsets [A+1] from 0 to P."""
    if len(offsets) != chains + 1:
        raise ValueError(f"{name}: expected [A+1] = [{chains + 1}]; found [{len(offsets)}]")
    first, last = offsets[0].item(), offsets[-1].item()
    if (first, last) != (0, points):
        raise ValueError(f"{name}: expected to go from 0 to {points}; found {first} to {last}")
