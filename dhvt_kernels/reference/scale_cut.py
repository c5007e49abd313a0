"""Cuts of a scale set."""

import math

import torch
from torch import Tensor

from .tree_cut import LARGEST, _tree


def scale_cut(
    lower: Tensor, parent: Tensor, round: Tensor, strength: Tensor, max_tokens: Tensor, num_segments: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Segment of each leaf, node of each segment, their number and the strength used, of N cuts of every image."""
    batch, nodes = parent.shape
    leaves, cuts = (nodes + 1) // 2, len(strength)
    segment = parent.new_full((cuts, batch, leaves), -1)
    node = parent.new_full((cuts, batch, num_segments), -1)
    counts = parent.new_zeros(cuts, batch)
    used = lower.new_zeros(cuts, batch)
    zero = torch.zeros_like(lower)
    for b in range(batch):
        tree = _tree(zero[b], zero[b], parent[b], round[b])
        numbers = lower[b].tolist()
        birth: dict[int, float] = {}  # from which strength on a node's leaves are in one segment
        for v in reversed(tree.nodes):
            above = birth[tree.parent[v]] if v in tree.parent else math.inf
            birth[v] = 0.0 if v < tree.leaves else numbers[v] if numbers[v] < above else above

        def cut_at(value: float, tree=tree, birth=birth) -> list[int]:  # type: ignore[no-untyped-def]
            return [
                v for v in tree.nodes if birth[v] <= value and not (v in tree.parent and birth[tree.parent[v]] <= value)
            ]

        for n, (least, budget) in enumerate(zip(strength.tolist(), max_tokens.tolist(), strict=True)):
            least = min(least, LARGEST) if least > 0 else 0.0
            chosen, nodes_cut = least, cut_at(least)
            if 0 < budget < len(nodes_cut):
                candidates = sorted({value for value in birth.values() if least < value <= LARGEST})
                chosen = next((value for value in candidates if len(cut_at(value)) <= budget), math.inf)
                nodes_cut = cut_at(chosen) if chosen < math.inf else tree.roots
            owner = {v: v for v in nodes_cut}
            for v in reversed(tree.nodes):
                if v not in owner and tree.parent.get(v) in owner:
                    owner[v] = owner[tree.parent[v]]
            ids: dict[int, int] = {}  # in the order of each segment's lowest leaf
            for leaf in range(leaves):
                if leaf in owner:
                    segment[n, b, leaf] = ids.setdefault(owner[leaf], len(ids))
            for v, k in list(ids.items())[:num_segments]:
                node[n, b, k] = v
            counts[n, b], used[n, b] = len(ids), min(chosen, LARGEST)
    return segment, node, counts, used
