"""How strong the boundaries between the leaves of a tree are."""

import torch
from torch import Tensor

from .tree_cut import LARGEST, _tree


def saliency(labels: Tensor, lower: Tensor, parent: Tensor, round: Tensor) -> Tensor:
    """At each pixel, the greatest strength at which it and its right or lower neighbour come into one segment."""
    batch, height, width = labels.shape
    zero = torch.zeros_like(lower)
    out = torch.zeros(labels.shape, dtype=torch.float32, device=labels.device)
    for b in range(batch):
        tree = _tree(zero[b], zero[b], parent[b], round[b])
        strengths, rows = lower[b].tolist(), labels[b].tolist()

        def ancestors(v: int, tree: object = tree) -> list[int]:
            line = [v]
            while line[-1] in tree.parent:  # type: ignore[attr-defined]
                line.append(tree.parent[line[-1]])  # type: ignore[attr-defined]
            return line

        known: dict[tuple[int, int], float] = {}
        for y in range(height):
            for x in range(width):
                for row, column in ((y, x + 1), (y + 1, x)):
                    if row == height or column == width:
                        continue
                    pair = rows[y][x], rows[row][column]
                    if pair[0] == pair[1] or not all(0 <= leaf < tree.leaves for leaf in pair):
                        continue
                    if pair not in known:
                        second = set(ancestors(pair[1]))
                        common = next((v for v in ancestors(pair[0]) if v in second), None)
                        value = LARGEST if common is None else strengths[common]
                        known[pair] = min(value, LARGEST) if value > 0 else 0.0
                    out[b, y, x] = max(out[b, y, x].item(), known[pair])
    return out
