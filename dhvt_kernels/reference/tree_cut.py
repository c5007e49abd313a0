"""The cut of least cost through a tree, its budget, and the relaxed cut. All in float64, which Python's floats are."""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

#: What an internal node with a likelihood of NaN or infinity costs more than its children.
NON_FINITE_COST = 1e15
LARGEST = torch.finfo(torch.float32).max


def _to_bits(value: float) -> int:
    return struct.unpack("<I", struct.pack("<f", value))[0]


def _from_bits(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def _sigmoid(x: float) -> float:
    e = math.exp(-abs(x))
    return e / (1 + e) if x < 0 else 1 / (1 + e)


@dataclass
class _Tree:
    """One image's tree; `nodes` are the used ones, children before parents."""

    leaves: int
    likelihood: dict[int, float] = field(default_factory=dict)
    penalty: dict[int, float] = field(default_factory=dict)
    parent: dict[int, int] = field(default_factory=dict)
    children: dict[int, list[int]] = field(default_factory=dict)
    finite: dict[int, bool] = field(default_factory=dict)

    @property
    def nodes(self) -> list[int]:
        return list(self.likelihood)

    @property
    def roots(self) -> list[int]:
        return [v for v in self.nodes if v not in self.parent]

    def costs(self, strength: float) -> dict[int, float]:
        return {v: self.likelihood[v] + strength * self.penalty[v] for v in self.nodes}

    def over_children(self, values: dict[int, float], v: int) -> float:
        total = 0.0
        for child in self.children[v]:  # not sum(): since Python 3.12 it compensates, and the kernels do not
            total += values[child]
        return total


def _tree(likelihood: Tensor, penalty: Tensor, parent: Tensor, round_: Tensor) -> _Tree:
    likelihoods, penalties, parents, rounds = (t.tolist() for t in (likelihood, penalty, parent, round_))
    total = len(parents)
    tree = _Tree((total + 1) // 2)
    children: dict[int, list[int]] = {v: [] for v in range(total)}
    for v, p in enumerate(parents):
        if rounds[v] < 0 or (v >= tree.leaves and not children[v]):
            continue
        tree.children[v] = children[v]
        tree.finite[v] = math.isfinite(likelihoods[v])
        if tree.finite[v]:
            tree.likelihood[v] = likelihoods[v]
        elif v < tree.leaves:
            tree.likelihood[v] = 0.0
        else:
            tree.likelihood[v] = tree.over_children(tree.likelihood, v) + NON_FINITE_COST
        tree.penalty[v] = penalties[v] if math.isfinite(penalties[v]) else 0.0
        if v < p < total and p >= tree.leaves and rounds[p] >= 0:
            tree.parent[v] = p
            children[p].append(v)
    return tree


def _optimal(tree: _Tree, strength: float) -> tuple[set[int], dict[int, float], dict[int, float]]:
    """The nodes that are not split, every node's cost, and the sum of its children's least costs."""
    cost = tree.costs(strength)
    best: dict[int, float] = {}
    below: dict[int, float] = {}
    kept = set()
    for v in tree.nodes:
        below[v] = tree.over_children(best, v)
        if not tree.children[v] or not below[v] < cost[v]:
            kept.add(v)
        best[v] = cost[v] if v in kept else below[v]
    return kept, cost, below


def _greedy(tree: _Tree, strength: float, lookahead: int, min_gain: float) -> set[int]:
    """A node is split while its best cut within `lookahead` generations lowers the cost by more than min_gain."""
    cost = tree.costs(strength)
    best = cost
    for _ in range(1, lookahead):
        deeper = {v: min(cost[v], tree.over_children(best, v)) if tree.children[v] else cost[v] for v in tree.nodes}
        if deeper == best:
            break  # deeper than the tree
        best = deeper
    return {v for v in tree.nodes if not tree.children[v] or not cost[v] - tree.over_children(best, v) > min_gain}


def _walk(tree: _Tree, kept: set[int]) -> list[int]:
    """The first kept node on every way down from the roots."""
    cut, stack = [], tree.roots
    while stack:
        v = stack.pop()
        if v in kept:
            cut.append(v)
        else:
            stack.extend(tree.children[v])
    return cut


def _choose(
    tree: _Tree, kept_at: Callable[[float], set[int]], strength: float, max_tokens: int
) -> tuple[list[int], float]:
    """The cut, and its strength: the least float32 from `strength` on whose cut has at most max_tokens segments."""
    strength = _from_bits(_to_bits(strength)) + 0.0
    cut = _walk(tree, kept_at(strength))
    if max_tokens <= 0 or len(cut) <= max_tokens:
        return cut, strength
    if len(_walk(tree, kept_at(LARGEST))) > max_tokens:
        return tree.roots, LARGEST
    low, high = _to_bits(strength), _to_bits(LARGEST)
    while high - low > 1:
        middle = (low + high) // 2
        if len(_walk(tree, kept_at(_from_bits(middle)))) <= max_tokens:
            high = middle
        else:
            low = middle
    return _walk(tree, kept_at(_from_bits(high))), _from_bits(high)


def tree_cut(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Segment of each leaf, node of each segment, their number, the strength used, relaxed probability of each node."""
    batch, nodes = parent.shape
    leaves = (nodes + 1) // 2
    segment = parent.new_full((batch, leaves), -1)
    node = parent.new_full((batch, leaves), -1)
    counts = parent.new_zeros(batch)
    strengths = likelihood.new_zeros(batch, dtype=torch.float32)
    probability = torch.zeros_like(likelihood, memory_format=torch.contiguous_format)
    for b in range(batch):
        tree = _tree(likelihood[b], penalty[b], parent[b], round[b])

        def kept_at(value: float, tree: _Tree = tree) -> set[int]:
            return _greedy(tree, value, lookahead, min_gain) if select == "greedy" else _optimal(tree, value)[0]

        cut, chosen = _choose(tree, kept_at, strength, max_tokens)
        owner: dict[int, int] = {v: v for v in cut}
        for v in reversed(tree.nodes):
            if v not in owner and tree.parent.get(v) in owner:
                owner[v] = owner[tree.parent[v]]
        ids: dict[int, int] = {}  # in the order of each segment's lowest leaf
        for leaf in range(leaves):
            if leaf in owner:
                segment[b, leaf] = ids.setdefault(owner[leaf], len(ids))
        for v, k in ids.items():
            node[b, k] = v
        counts[b], strengths[b] = len(ids), chosen
        _, cost, below = _optimal(tree, chosen)
        reach: dict[int, float] = {}
        for v in reversed(tree.nodes):
            p = tree.parent.get(v)
            reach[v] = 1.0 if p is None else reach[p] * _sigmoid((cost[p] - below[p]) / selection_temperature)
            stays = _sigmoid((below[v] - cost[v]) / selection_temperature) if tree.children[v] else 1.0
            probability[b, v] = reach[v] * stays
    return segment, node, counts, strengths, probability


def tree_cut_backward(
    grad_probability: Tensor,
    likelihood: Tensor,
    penalty: Tensor,
    parent: Tensor,
    round: Tensor,
    strength: Tensor,
    selection_temperature: float,
) -> tuple[Tensor, Tensor]:
    """Derivatives of sum_v grad_v P_v; the strength is a constant."""
    # float64 until the end, where what the dtype does not hold becomes infinite.
    grad_likelihood, grad_penalty = torch.zeros(2, *likelihood.shape, dtype=torch.float64, device=likelihood.device)
    for b, lam in enumerate(strength.tolist()):
        tree = _tree(likelihood[b], penalty[b], parent[b], round[b])
        grad = grad_probability[b].tolist()
        kept, cost, below = _optimal(tree, lam)
        gap = {v: (below[v] - cost[v]) / selection_temperature for v in tree.nodes}
        stays = {v: _sigmoid(gap[v]) if tree.children[v] else 1.0 for v in tree.nodes}
        split = {v: _sigmoid(-gap[v]) if tree.children[v] else 0.0 for v in tree.nodes}
        reach: dict[int, float] = {}
        for v in reversed(tree.nodes):
            p = tree.parent.get(v)
            reach[v] = 1.0 if p is None else reach[p] * split[p]
        # P_v = stays_v reach_v, and reach of a child is reach_v split_v.
        grad_reach: dict[int, float] = {}
        grad_gap: dict[int, float] = {}  # to below - cost
        for v in tree.nodes:
            inner = tree.over_children(grad_reach, v)
            grad_reach[v] = grad[v] * stays[v] + split[v] * inner
            grad_gap[v] = reach[v] * (grad[v] - inner) * stays[v] * split[v] / selection_temperature
        grad_best: dict[int, float] = {}  # best(v) is cost(v) where v is kept, else the sum of its children's best
        for v in reversed(tree.nodes):
            p = tree.parent.get(v)
            grad_best[v] = 0.0 if p is None else grad_gap[p] + (0.0 if p in kept else grad_best[p])
            grad_cost = (grad_best[v] if v in kept else 0.0) - grad_gap[v]
            grad_likelihood[b, v] = grad_cost if tree.finite[v] else 0.0
            grad_penalty[b, v] = lam * grad_cost
    return grad_likelihood.to(likelihood.dtype), grad_penalty.to(likelihood.dtype)
