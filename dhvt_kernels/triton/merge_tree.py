"""Best-neighbour merging of a region graph into a binary tree, and the gradients down that tree."""

import torch
from torch import Tensor

from ..ops.merge_tree import DISTANCES
from ._checked import checked
from ._lanes import BLOCK, lanes
from ._language import cdiv, jit, tl
from ._launch import launch
from ._merge import check_sizes, merge
from ._merge_edges import NO_EDGE, pack_edge, unique_edges
from ._merge_gradient import inner_gradient_kernel, leaf_gradient_kernel
from ._merge_nodes import empty_nodes, store_leaf
from ._tree import family

#: Lanes of the program that goes down an image's generations.
GENERATION_BLOCK = 1024


@jit
def _node_kernel(
    leaf_count,  # [B L]
    leaf_centroid,  # [B L,2]
    leaf_box,  # [B L,4]
    leaf_boundary,  # [B L]
    parent,  # [B V]
    round,  # [B V]
    count,  # [B V]
    centroid,  # [B V,2]
    box,  # [B V,4]
    boundary,  # [B V]
    node,  # [B L]
    size,  # B V
    nodes,  # V
    BLOCK: tl.constexpr,
):
    """A lane per node copies a leaf, or writes an unused node: all but the features."""
    row, here = lanes(size, BLOCK)
    leaves = (nodes + 1) // 2
    is_leaf = here & (row % nodes < leaves)
    leaf = row // nodes * leaves + row % nodes
    own_count = tl.load(leaf_count + leaf, mask=is_leaf, other=0)
    used = own_count > 0
    own_boundary = tl.load(leaf_boundary + leaf, mask=used, other=0)
    own_centroid = tl.load(leaf_centroid + 2 * leaf[:, None] + tl.arange(0, 2)[None, :], mask=used[:, None], other=0)
    own_box = tl.load(leaf_box + 4 * leaf[:, None] + tl.arange(0, 4)[None, :], mask=used[:, None], other=0)
    store_leaf(
        parent, round, count, centroid, box, boundary, row, here, used, own_count, own_centroid, own_box, own_boundary
    )
    tl.store(node + leaf, row, mask=is_leaf)


@jit
def _feature_kernel(
    leaf_count,  # [B L]
    leaf_mean,  # [B L,C]
    leaf_m2,  # [B L,C]
    mean,  # [B V,C]
    m2,  # [B V,C]
    size,  # B V C
    nodes,  # V
    channels,
    BLOCK: tl.constexpr,
):
    """A lane per node and channel."""
    i, here = lanes(size, BLOCK)
    row, c = i // channels, i % channels
    leaves = (nodes + 1) // 2
    leaf = row // nodes * leaves + row % nodes
    used = tl.load(leaf_count + leaf, mask=here & (row % nodes < leaves), other=0) > 0
    tl.store(mean + i, tl.load(leaf_mean + leaf * channels + c, mask=used, other=0), mask=here)
    tl.store(m2 + i, tl.load(leaf_m2 + leaf * channels + c, mask=used, other=0), mask=here)


@jit
def _is_leaf(count, first, v, leaves, here):
    valid = here & (v >= 0) & (v < leaves)
    return tl.load(count + first + v, mask=valid, other=0) > 0


@jit
def _edge_kernel(
    pairs,  # [B E,2]
    lengths,  # [B E]
    count,  # [B L]
    edges,  # [B E]
    wide_lengths,  # [B E]
    size,  # B E
    edges_per_image,
    leaves,
    BLOCK: tl.constexpr,
):
    """A lane per edge."""
    e, here = lanes(size, BLOCK)
    u, v = tl.load(pairs + 2 * e, mask=here, other=0), tl.load(pairs + 2 * e + 1, mask=here, other=0)
    length = tl.load(lengths + e, mask=here, other=0)
    first = e // edges_per_image * leaves
    edge = _is_leaf(count, first, u, leaves, here) & _is_leaf(count, first, v, leaves, here) & (u != v) & (length > 0)
    tl.store(edges + e, tl.where(edge, pack_edge(first + u, first + v), NO_EDGE), mask=here)
    tl.store(wide_lengths + e, length.to(tl.int64), mask=here)


@checked(
    count="int32 B L",
    mean="accumulated B L C",
    m2="same B L C",
    centroid="same B L 2",
    box="int32 B L 4",
    boundary="int32 B L",
    edges="int32 B E 2",
    lengths="int32 B E",
    distance=DISTANCES,
)
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
    batch, leaves, channels = mean.shape
    check_sizes(batch, leaves, edges.shape[1])
    tree = empty_nodes(batch, leaves, channels, mean.dtype, count)
    if batch == 0 or leaves == 0:
        return tree
    count, nodes = count.contiguous(), tree.parent.shape[1]
    node = torch.empty_like(count, dtype=torch.int64).flatten()
    launch(
        _node_kernel,
        cdiv(batch * nodes, BLOCK),
        count,
        count,
        centroid.contiguous(),
        box.contiguous(),
        boundary.contiguous(),
        tree.parent,
        tree.round,
        tree.count,
        tree.centroid,
        tree.box,
        tree.boundary,
        node,
        batch * nodes,
        nodes,
        BLOCK=BLOCK,
    )
    features = (mean.contiguous(), m2.contiguous(), tree.mean, tree.m2, tree.mean.numel(), nodes, channels)
    launch(_feature_kernel, cdiv(tree.mean.numel(), BLOCK), count, count, *features, BLOCK=BLOCK)

    size = lengths.numel()
    packed, wide_lengths = node.new_empty(size), node.new_empty(size)
    given = (edges.contiguous(), lengths.contiguous(), count)
    launch(
        _edge_kernel,
        cdiv(size, BLOCK),
        count,
        *given,
        packed,
        wide_lengths,
        size,
        edges.shape[1],
        leaves,
        BLOCK=BLOCK,
    )
    packed, wide_lengths = unique_edges(packed, wide_lengths, size)
    merge(tree, packed, wide_lengths, node, distance, compactness, depth, noise, planar=False)
    return tree


@checked(
    parent="int32 B V",
    node_mean="accumulated B V C",
    node_count="int32 B V",
    grad_mean="same B V C",
    grad_m2="same B V C",
)
def merge_tree_backward(
    grad_mean: Tensor, grad_m2: Tensor, parent: Tensor, node_count: Tensor, node_mean: Tensor
) -> tuple[Tensor, Tensor]:
    """From the root down, through mean = (n_a mean_a + n_b mean_b) / n and m2 = m2_a + m2_b + n_a n_b / n delta^2."""
    batch, nodes, channels = node_mean.shape
    inner = nodes // 2
    members, generations = family(parent.contiguous())
    total_mean, total_m2 = node_mean.new_empty(2, batch, inner, channels)
    leaf_mean = node_mean.new_empty(batch, nodes - inner, channels)
    leaf_m2 = torch.empty_like(leaf_mean)
    given = (*members, node_count.contiguous(), node_mean.contiguous(), grad_mean.contiguous(), grad_m2.contiguous())
    totals, sizes = (total_mean, total_m2), (nodes, channels)
    launch(inner_gradient_kernel, batch, parent, *generations, *given, *totals, *sizes, warps=8, BLOCK=GENERATION_BLOCK)
    size = leaf_mean.numel()
    leaf = (leaf_mean, leaf_m2, size)
    launch(leaf_gradient_kernel, cdiv(size, BLOCK), parent, *given, *totals, *leaf, *sizes, BLOCK=BLOCK)
    return leaf_mean, leaf_m2
