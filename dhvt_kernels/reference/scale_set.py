"""The strengths at which each node of a tree is in the cut of least cost. In float64, which Python's floats are."""

import heapq
import math

import torch
from torch import Tensor

from .tree_cut import LARGEST, _from_bits, _to_bits, _Tree, _tree


def _crossing(likelihood: float, penalty: float, below: tuple[float, float]) -> float:
    """The least strength >= 0 from which a line is not above one that rises at least as fast."""
    gain, saved = likelihood - below[0], below[1] - penalty
    if not gain > 0:
        return 0.0
    if not saved > 0:
        return math.inf
    strength = gain / saved
    return math.inf if math.isnan(strength) else strength


def float_above(value: float) -> float:
    """The least float32 that is not below a number >= 0."""
    if not value <= LARGEST:
        return math.inf
    bits = _to_bits(value)
    return _from_bits(bits + (_from_bits(bits) < value))


def _scales(tree: _Tree) -> dict[int, float]:
    """From which strength on each node costs no more than the best cut below it.

    That best cut's cost is a line above the highest strength at which a node below enters it; `enters` holds these
    strengths, the highest first, and `change` by what line they change the sum, going down.
    """
    scale: dict[int, float] = {}
    change: dict[int, tuple[float, float]] = {}
    best: dict[int, tuple[float, float]] = {}
    enters: dict[int, list[tuple[float, int]]] = {}
    for v in tree.nodes:
        own = tree.likelihood[v], tree.penalty[v]
        if v < tree.leaves:
            scale[v], best[v], enters[v] = 0.0, own, []
            continue
        line = (0.0, 0.0)
        heap: list[tuple[float, int]] = []
        for child in tree.children[v]:
            line = line[0] + best[child][0], line[1] + best[child][1]
            small, heap = sorted((enters.pop(child), heap), key=len)
            for entry in small:
                heapq.heappush(heap, entry)
        strength = _crossing(*own, line)
        while heap and -heap[0][0] > strength:
            step = change[-heapq.heappop(heap)[1]]
            line = line[0] + step[0], line[1] + step[1]
            strength = _crossing(*own, line)
        scale[v], best[v], enters[v] = strength, line, heap
        if strength < math.inf:
            best[v], change[v] = own, (line[0] - own[0], line[1] - own[1])
            heapq.heappush(heap, (-strength, -v))
    return scale


def scale_set(likelihood: Tensor, penalty: Tensor, parent: Tensor, round: Tensor) -> tuple[Tensor, Tensor]:
    """The range of strengths [lower, upper) of every node; empty, at infinity, for unused ones."""
    lower = torch.full(parent.shape, math.inf, dtype=torch.float32, device=parent.device)
    upper = lower.clone()
    for b in range(parent.shape[0]):
        tree = _tree(likelihood[b], penalty[b], parent[b], round[b])
        scale = _scales(tree)
        for v in reversed(tree.nodes):
            end = float(lower[b, tree.parent[v]]) if v in tree.parent else math.inf
            lower[b, v], upper[b, v] = min(float_above(scale[v]), end), end
    return lower, upper
