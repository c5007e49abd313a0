"""Merging of a region graph into a binary tree, the nearest pair of all first."""

import heapq

import torch
from torch import Tensor

from .merge_tree import distances, join, merge_images


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
    boundary = moments[5]
    neighbours: list[dict[int, int]] = [{} for _ in parent]  # and the length to each
    heap: list[tuple[float, int, int]] = []

    def offer(pairs: dict[tuple[int, int], int]) -> None:
        ends = torch.tensor(list(pairs), device=boundary.device).reshape(-1, 2)
        common = torch.tensor(list(pairs.values()), device=boundary.device)
        values = distances(ends, common, moments, distance, compactness, noise).tolist()
        for (u, v), value in zip(pairs, values, strict=True):
            heapq.heappush(heap, (value, u, v))

    for (u, v), length in edges.items():
        neighbours[u][v] = neighbours[v][u] = length
    offer(edges)
    merges = 0
    while heap and merges < max_rounds:
        _, a, b = heapq.heappop(heap)
        if parent[a] >= 0 or parent[b] >= 0:
            continue  # one of them has merged since: this is no pair any more
        node = leaves + merges
        merges += 1
        parent[a] = parent[b] = node
        round_[node] = merges
        join(moments, node, a, b)
        boundary[node] -= 2 * neighbours[a][b]
        for child in (a, b):
            for v, length in neighbours[child].items():
                if parent[v] < 0:
                    neighbours[node][v] = neighbours[v][node] = neighbours[node].get(v, 0) + length
        offer({(v, node): length for v, length in neighbours[node].items()})


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
