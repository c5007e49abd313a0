"""Merging of a region graph into a binary tree, the nearest pair of all first."""

import heapq
from dataclasses import dataclass

import torch
from torch import Tensor

from .merge_tree import distances, join, merge_images


@dataclass
class _Contact:
    """Where two regions touch."""

    length: int
    offer: int = -1
    """The number of its latest distance."""


def _merge_image(
    parent: list[int],
    round_: list[int],
    moments: tuple[Tensor, ...],
    edges: dict[tuple[int, int], int],
    leaves: int,
    distance: str,
    compactness: float,
    noise: float,
    max_rounds: float,
) -> None:
    """Merge one image in place, each merge a round of its own."""
    count, boundary = moments[0], moments[5]
    contacts: list[dict[int, _Contact]] = [{} for _ in parent]  # of each node, by the other
    heap: list[tuple[float, int]] = []
    ends: list[tuple[int, int]] = []  # of each offer, when it was made

    def at_present(pairs: list[tuple[int, int]]) -> list[float]:
        common = torch.tensor([contacts[u][v].length for u, v in pairs], dtype=torch.int64, device=count.device)
        of = torch.tensor(pairs, dtype=torch.int64, device=count.device).reshape(-1, 2)
        return distances(of, common, moments, distance, compactness, noise).tolist()

    def offer(pairs: list[tuple[int, int]]) -> None:
        for (u, v), value in zip(pairs, at_present(pairs), strict=True):
            contacts[u][v].offer = len(ends)
            heapq.heappush(heap, (value, len(ends)))
            ends.append((u, v))

    def newest(node: int) -> int:
        while parent[node] >= 0:
            node = parent[node]
        return node

    for (u, v), length in edges.items():
        contacts[u][v] = contacts[v][u] = _Contact(length)
    offer(sorted(edges))
    merges = 0
    while heap and merges < max_rounds:
        value, number = heapq.heappop(heap)
        a, b = sorted(map(newest, ends[number]))
        if a == b or contacts[a][b].offer != number:
            continue
        if at_present([(a, b)])[0] > value:
            offer([(a, b)])
            continue
        node = leaves + merges
        merges += 1
        parent[a] = parent[b] = node
        round_[node] = merges
        join(moments, node, a, b)
        boundary[node] -= 2 * contacts[a][b].length
        larger, other = (a, b) if count[a] >= count[b] else (b, a)
        contacts[node] = {v: contact for v, contact in contacts[larger].items() if v != other}
        changed = sorted(contacts[other].keys() - {larger})
        for v in changed:
            contacts[node].setdefault(v, _Contact(0)).length += contacts[other][v].length
        for v, contact in contacts[node].items():
            contacts[v].pop(a, None), contacts[v].pop(b, None)
            contacts[v][node] = contact
        offer([(v, node) for v in changed])


def merge_best(
    count: Tensor,
    mean: Tensor,
    m2: Tensor,
    centroid: Tensor,
    box: Tensor,
    boundary: Tensor,
    edges: Tensor,
    lengths: Tensor,
    distance: str,
    compactness: float,
    depth: int,
    noise: float = 16.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Binary trees; depth - 1 merges, all of them where depth is 0."""
    moments = count, mean, m2, centroid, box, boundary
    return merge_images(_merge_image, moments, edges, lengths, distance, compactness, depth, noise)
