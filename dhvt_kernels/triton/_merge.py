"""Merging in rounds, of a whole batch at once: every launch covers all images.

The host knows how many vertices a round has at most, since each merges with another one: half as many as the round
before. So the lanes of all rounds together are about twice those of the first one, and rounds that an image does not
need find no edges. A round is eleven launches of our own, three sorts and two scans.
"""

import torch
from torch import Tensor

from .._checks import INT32_MAX
from ._checked import require
from ._lanes import BLOCK
from ._language import cdiv
from ._launch import launch
from ._merge_edges import contract_kernel, unique_edges
from ._merge_nodes import Nodes, join_kernel, join_means_kernel
from ._merge_picks import NO_PICK, chain_kernel, distance_kernel, link_kernel, order_kernel, pick_kernel

#: Lanes that go along chains: few, since a program takes as long as its longest chain.
CHAIN_BLOCK = 256


def check_sizes(batch: int, leaves: int, edges: int) -> None:
    """Vertices and edges of a batch are numbered in 31 bits."""
    number = batch * max(leaves, edges)
    require(number < NO_PICK, f"expected fewer than 2^31 - 1 leaves and edges in a batch; found {number}")
    require(2 * leaves - 1 <= INT32_MAX, f"expected node numbers within int32; found {leaves} leaves")


def _order_edges(
    tree: Nodes, edges: Tensor, lengths: Tensor, node: Tensor, distance: str, compactness: float, noise: float
) -> Tensor:
    """Edges [M] in the order of merging."""
    distances = tree.mean.new_empty(len(edges))
    launch(
        distance_kernel,
        cdiv(len(edges), BLOCK),
        node,
        edges,
        lengths,
        node,
        tree.count,
        tree.mean,
        tree.m2,
        tree.box,
        tree.mean.new_full((), compactness),  # in full precision, as no number would be
        tree.mean.new_full((), noise),
        distances,
        len(edges),
        tree.mean.shape[2],
        KIND=distance,
        COMPACT=compactness > 0,
        BLOCK=BLOCK,
    )
    return torch.sort(distances, stable=True).indices


def _chain_vertices(edges: Tensor, order: Tensor, vertices: int) -> tuple[Tensor, Tensor]:
    """The chain of each vertex, and its place among all merges: chain << 32 | place in the order; see chain_kernel."""
    pick = edges.new_full((vertices,), NO_PICK, dtype=torch.int32)
    up, first, chain = (torch.empty_like(pick) for _ in range(3))
    key = edges.new_empty(vertices)
    launch(pick_kernel, cdiv(len(edges), BLOCK), edges, edges, order, pick, len(edges), BLOCK=BLOCK)
    programs = cdiv(vertices, BLOCK)
    launch(link_kernel, programs, edges, edges, order, pick, up, first, vertices, BLOCK=BLOCK)
    number = torch.cumsum(first, 0, dtype=torch.int32)
    launch(chain_kernel, programs, edges, pick, up, number, chain, key, vertices, BLOCK=BLOCK)
    return chain, key


def merge(
    tree: Nodes,
    edges: Tensor,
    lengths: Tensor,
    node: Tensor,
    distance: str,
    compactness: float,
    depth: int,
    noise: float,
    planar: bool,
) -> None:
    """Writes the inner nodes of a tree.

    Args:
        tree: with its leaves; inner nodes as unused ones.
        edges: [M] int64, `low << 32 | high`, sorted but for NO_EDGE, which is none, each once. Vertices are the leaves
            of the batch.
        lengths: [M] int64.
        node: [N] int64, rows of the vertices among the nodes of the batch.
        planar: whether the graph is: then n vertices have fewer than 3 n edges.
    """
    batch, nodes = tree.parent.shape
    vertices, most_edges = (nodes + 1) // 2, len(edges) // batch  # of an image
    created = torch.arange(vertices, vertices + batch * nodes, nodes, device=node.device)
    rounds = vertices.bit_length() - 1
    for number in range(1, 1 + (min(rounds, depth - 1) if depth > 0 else rounds)):
        order = _order_edges(tree, edges, lengths, node, distance, compactness, noise)
        chain, key = _chain_vertices(edges, order, len(node))
        keys, owners = torch.sort(key)

        vertices //= 2
        chains = batch * vertices
        most_edges = min(most_edges, vertices * (vertices - 1) // 2, 3 * vertices if planar else most_edges)
        added, single = torch.empty_like(chain), torch.empty_like(node)
        begin, end = chain.new_zeros(chains), chain.new_zeros(chains)
        other, next_node, stop = node.new_empty(chains), node.new_empty(chains), torch.empty_like(created)
        merges = (single, begin, end, other, created, stop)
        programs = cdiv(len(node), BLOCK)
        launch(
            order_kernel,
            programs,
            node,
            edges,
            order,
            keys,
            owners,
            node,
            added,
            *merges,
            len(node),
            nodes,
            BLOCK=BLOCK,
        )

        contracted, inner = torch.empty_like(edges), torch.zeros_like(chain)
        programs = cdiv(len(edges), BLOCK)
        launch(
            contract_kernel, programs, node, edges, lengths, chain, added, inner, contracted, len(edges), BLOCK=BLOCK
        )
        edges, lengths = unique_edges(contracted, lengths, batch * most_edges)

        share = tree.mean.new_empty(len(node))
        rest = (tree.parent, tree.round, tree.count, tree.box, tree.boundary, share, next_node, chains, nodes, number)
        launch(join_kernel, cdiv(chains, CHAIN_BLOCK), node, *merges, inner, *rest, BLOCK=CHAIN_BLOCK)
        for mean, m2 in ((tree.mean, tree.m2), (tree.centroid, None)):
            lanes = chains * mean.shape[2]
            means = (share, tree.count, mean, m2, lanes, nodes, mean.shape[2])
            launch(join_means_kernel, cdiv(lanes, CHAIN_BLOCK), node, *merges, *means, BLOCK=CHAIN_BLOCK)
        node = next_node
