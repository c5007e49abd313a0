"""Best-neighbour merging of a region graph into a binary tree, and the gradients down that tree."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

EMPTY_BOX = (0, 0, -1, -1)
#: Below so many pixels the size of regions hardly counts in a contrast, nor below such a length their boundary.
CONTRAST_COUNT, CONTRAST_LENGTH = 200, 80


def distances(
    pairs: Tensor,
    common: Tensor,
    moments: tuple[Tensor, ...],
    distance: str,
    compactness: float,
    noise: float,
) -> Tensor:
    """The distance of each pair of nodes; pairs [P,2], common [P] boundary lengths, moments [V,...].

    Every operation rounds on its own, in this order: the kernels repeat it bit for bit.
    """
    count, mean, m2, _, box, _ = moments
    u, v = pairs.unbind(1)
    n_u, n_v = count[u].to(mean.dtype), count[v].to(mean.dtype)
    result = mean.new_zeros(len(pairs))
    for channel in range(mean.shape[1]):
        delta = mean[u, channel] - mean[v, channel]
        square = delta * delta
        if distance == "contrast":
            square = square / ((m2[u, channel] + m2[v, channel]) / (n_u + n_v) + noise)
        result = result + square
    low = torch.minimum(box[u, :2], box[v, :2]).long()
    high = torch.maximum(box[u, 2:], box[v, 2:]).long()
    sides = (high - low + 1).sum(1).to(mean.dtype)
    spread = 1 - 4 * (n_u + n_v) / (sides * sides)
    if distance == "contrast":
        scale = (CONTRAST_COUNT + n_u * n_v / (n_u + n_v)) / (CONTRAST_LENGTH + common.to(mean.dtype))
        result = scale * (result + spread)
    elif distance != "feature":
        result = n_u * n_v / (n_u + n_v) * result
    if distance == "ward_length":
        result = result / common.to(mean.dtype)
    elif distance == "ward_root":
        result = result / common.to(mean.dtype).sqrt()
    if compactness > 0:
        result = result + compactness * spread
    return torch.where(result.isnan(), math.inf, result)


def join(moments: tuple[Tensor, ...], node: int, a: int, b: int) -> None:
    """Make a node's moments those of a, joined by b. Its boundary still has twice what they have in common."""
    count, mean, m2, centroid, box, boundary = moments
    n_a, n_b = count[a].to(mean.dtype), count[b].to(mean.dtype)
    share = n_b / (n_a + n_b)
    delta = mean[b] - mean[a]
    mean[node] = mean[a] + delta * share
    m2[node] = m2[a] + (m2[b] + delta * n_a * share * delta)
    centroid[node] = centroid[a] + (centroid[b] - centroid[a]) * share
    box[node, :2] = torch.minimum(box[a, :2], box[b, :2])
    box[node, 2:] = torch.maximum(box[a, 2:], box[b, 2:])
    count[node] = count[a] + count[b]
    boundary[node] = boundary[a] + boundary[b]


def _contract(edges: dict[tuple[int, int], int], name: dict[int, int]) -> dict[tuple[int, int], int]:
    """Rename the ends of edges, drop inner edges, sum the lengths of parallel ones."""
    contracted: dict[tuple[int, int], int] = {}
    for (u, v), length in edges.items():
        a, b = sorted((name[u], name[v]))
        if a != b:
            contracted[a, b] = contracted.get((a, b), 0) + length
    return contracted


def _closest_pairs(best: dict[int, tuple[float, int]]) -> dict[int, int]:
    """Of each vertex the lower of the two vertices of its component that picked each other; all picks lead there."""
    closest = {u: min(u, v) for u, (_, v) in best.items() if best[v][1] == u}
    for u in best:
        path = []
        while u not in closest:
            path.append(u)
            u = best[u][1]
        closest.update(dict.fromkeys(path, closest[u]))
    return closest


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
    """Merge one image in place, round by round."""
    mean, boundary = moments[1], moments[5]
    node, round_number = leaves, 0
    while edges and round_number < max_rounds:
        round_number += 1
        first = node
        pairs = list(edges)
        common = torch.tensor([edges[pair] for pair in pairs], device=mean.device)
        frozen = distances(torch.tensor(pairs, device=mean.device), common, moments, distance, compactness, noise)
        best: dict[int, tuple[float, int]] = {}
        for (u, v), value in zip(pairs, frozen.tolist(), strict=True):
            best[u] = min(best.get(u, (math.inf, leaves * 2)), (value, v))
            best[v] = min(best.get(v, (math.inf, leaves * 2)), (value, u))
        # Component after component, in the order of the lower ends of their closest pairs.
        closest = _closest_pairs(best)
        picks = {(closest[u], value, min(u, v), max(u, v)) for u, (value, v) in best.items()}
        root: dict[int, int] = {u: u for u in best}  # the newest node above each vertex
        for _, _, u, v in sorted(picks):
            a, b = sorted((root[u], root[v]))
            parent[a] = parent[b] = node
            round_[node] = round_number
            join(moments, node, a, b)
            for vertex, newest in root.items():
                if newest in (a, b):
                    root[vertex] = node
            node += 1
        for (u, v), length in edges.items():
            if root[u] != root[v]:
                continue
            while u != v:  # climb to the node that connects them: a parent's index is above its children's
                u, v = (parent[u], v) if u < v else (u, parent[v])
            inner = u
            while inner >= first:  # that node and all above it have lost this boundary on both sides
                boundary[inner] -= 2 * length
                inner = parent[inner]
        edges = _contract(edges, root)


def merge_tree(
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
    """Binary trees; depth - 1 rounds of merging, all of them where depth is 0."""
    moments = count, mean, m2, centroid, box, boundary
    return merge_images(_merge_image, moments, edges, lengths, distance, compactness, depth, noise)


#: What merges one image in place: parents, rounds, moments [V,...], edges from (lower node, higher node) to the length
#: between them, the number of leaves, distance, compactness, noise, and the most rounds.
MergeImage = Callable[
    [list[int], list[int], tuple[Tensor, ...], dict[tuple[int, int], int], int, str, float, float, float], None
]


def merge_images(
    merge_image: MergeImage,
    leaf_moments: tuple[Tensor, ...],
    edges: Tensor,
    lengths: Tensor,
    distance: str,
    compactness: float,
    depth: int,
    noise: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Parents, rounds and moments of the nodes, image after image."""
    count, mean, m2, centroid, box, boundary = leaf_moments
    batch, leaves = count.shape
    nodes = max(2 * leaves - 1, 0)
    empty = torch.tensor(EMPTY_BOX, dtype=torch.int32, device=count.device)
    used = count > 0
    merges = nodes - leaves

    def padded(leaf: Tensor, unused: Tensor | int = 0) -> Tensor:
        keep = used if leaf.dim() == 2 else used.unsqueeze(-1)
        leaf = torch.where(keep, leaf, unused)
        return torch.cat((leaf, torch.zeros_like(leaf[:, :merges]) + unused), 1).to(leaf.dtype).contiguous()

    boundaries = padded(boundary.long())
    moments = (padded(count), padded(mean), padded(m2), padded(centroid), padded(box, empty), boundaries)
    parents = [[-1] * nodes for _ in range(batch)]
    rounds = [[0 if flag else -1 for flag in row] + [-1] * merges for row in used.tolist()]
    for b in range(batch):
        graph: dict[tuple[int, int], int] = {}
        for (u, v), length in zip(edges[b].tolist(), lengths[b].tolist(), strict=True):
            if min(u, v) < 0 or max(u, v) >= leaves or u == v or length <= 0 or rounds[b][u] < 0 or rounds[b][v] < 0:
                continue
            pair = min(u, v), max(u, v)
            graph[pair] = graph.get(pair, 0) + length
        image = tuple(t[b] for t in moments)
        max_rounds = depth - 1 if depth > 0 else math.inf
        merge_image(parents[b], rounds[b], image, graph, leaves, distance, compactness, noise, max_rounds)

    def stacked(rows: list[list[int]]) -> Tensor:
        return torch.tensor(rows, dtype=torch.int32, device=count.device).reshape(batch, nodes)

    return stacked(parents), stacked(rounds), *moments[:-1], boundaries.int()


def merge_tree_backward(
    grad_mean: Tensor, grad_m2: Tensor, parent: Tensor, node_count: Tensor, node_mean: Tensor
) -> tuple[Tensor, Tensor]:
    """From the root down, through mean = (n_a mean_a + n_b mean_b) / n and m2 = m2_a + m2_b + n_a n_b / n delta^2."""
    batch, nodes = parent.shape
    leaves = (nodes + 1) // 2
    total_mean, total_m2 = grad_mean.clone(), grad_m2.clone()
    for b in range(batch):
        children: dict[int, list[int]] = {}
        for v, p in enumerate(parent[b].tolist()):
            if v < p and leaves <= p < nodes:
                children.setdefault(p, []).append(v)
        for p in sorted(children, reverse=True):
            if len(children[p]) != 2:
                continue
            for a, other in (children[p], children[p][::-1]):
                n_a, n_other = node_count[b, [a, other]].to(node_mean.dtype)
                share = n_a / (n_a + n_other)
                delta = node_mean[b, a] - node_mean[b, other]
                grad_m2 = total_m2[b, p]
                spread = torch.where(grad_m2 != 0, 2 * share * n_other * delta * grad_m2, 0)  # none to NaN, too
                total_mean[b, a] += share * total_mean[b, p] + spread
                total_m2[b, a] += total_m2[b, p]
    used = node_count[:, :leaves, None] > 0  # the moments of an unused leaf are zero, whatever came in
    return torch.where(used, total_mean[:, :leaves], 0), torch.where(used, total_m2[:, :leaves], 0)
