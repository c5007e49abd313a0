"""Merging of the pixels of an image into a binary tree: the general merging, on the graph of the pixels."""

import torch
from torch import Tensor

from .._checks import accumulation_dtype
from ..ops.merge_tree import DISTANCES
from ._checked import checked
from ._lanes import BLOCK, lanes
from ._language import cdiv, jit, tl
from ._launch import launch
from ._merge import check_sizes, merge
from ._merge_edges import NO_EDGE, pack_edge
from ._merge_nodes import empty_nodes, store_leaf


@jit
def _inside(mask, image, y, x, height, width, here):
    """Whether there is such a pixel inside the mask, or inside the image where there is none."""
    inside = here & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    if mask is not None:
        inside = inside & (tl.load(mask + (image * height + y) * width + x, mask=inside, other=0) != 0)
    return inside


@jit
def _pixel_kernel(
    mask,  # [B,H,W] or None
    parent,  # [B V]
    round,  # [B V]
    count,  # [B V]
    centroid,  # [B V,2]
    box,  # [B V,4]
    boundary,  # [B V]
    node,  # [B H W]
    edges,  # [B H W,2]: to the right, downwards
    lengths,  # [B H W,2]
    size,  # B V
    nodes,  # V
    height,
    width,
    BLOCK: tl.constexpr,
):
    """A lane per node: a pixel, with its edges, or an unused node. Writes 80 bytes per pixel, and 40 per inner node."""
    row, here = lanes(size, BLOCK)
    leaves = (nodes + 1) // 2
    image, leaf = row // nodes, row % nodes
    y, x = leaf // width, leaf % width
    used = _inside(mask, image, y, x, height, width, here)
    right = used & _inside(mask, image, y, x + 1, height, width, here)
    down = used & _inside(mask, image, y + 1, x, height, width, here)
    left = _inside(mask, image, y, x - 1, height, width, here)
    above = _inside(mask, image, y - 1, x, height, width, here)
    neighbours = left.to(tl.int32) + right.to(tl.int32) + above.to(tl.int32) + down.to(tl.int32)
    first = tl.arange(0, 2)[None, :] == 0
    own_centroid = tl.where(first, y[:, None], x[:, None]).to(centroid.dtype.element_ty)
    own_box = tl.where(tl.arange(0, 4)[None, :] % 2 == 0, y[:, None], x[:, None]).to(tl.int32)
    store_leaf(parent, round, count, centroid, box, boundary, row, here, used, 1, own_centroid, own_box, neighbours)
    is_leaf = here & (leaf < leaves)
    vertex = image * leaves + leaf
    tl.store(node + vertex, row, mask=is_leaf)
    edge = 2 * vertex
    tl.store(edges + edge, tl.where(right, pack_edge(vertex, vertex + 1), NO_EDGE), mask=is_leaf)
    tl.store(edges + edge + 1, tl.where(down, pack_edge(vertex, vertex + width), NO_EDGE), mask=is_leaf)
    tl.store(lengths + edge, right.to(tl.int64), mask=is_leaf)
    tl.store(lengths + edge + 1, down.to(tl.int64), mask=is_leaf)


@jit
def _feature_kernel(
    features,  # [B,C,H,W] by its strides
    mask,  # [B,H,W] or None
    mean,  # [B V,C]
    m2,  # [B V,C]
    size,  # B V C
    nodes,  # V
    channels,
    height,
    width,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    BLOCK: tl.constexpr,
):
    """A lane per node and channel."""
    i, here = lanes(size, BLOCK)
    row, c = i // channels, i % channels
    image, leaf = row // nodes, row % nodes
    y, x = leaf // width, leaf % width
    used = _inside(mask, image, y, x, height, width, here)
    source = features + image * image_stride + c * channel_stride + y * row_stride + x * column_stride
    tl.store(mean + i, tl.load(source, mask=used, other=0).to(mean.dtype.element_ty), mask=here)
    tl.store(m2 + i, tl.zeros([BLOCK], m2.dtype.element_ty), mask=here)


@checked(features="floating B C H W", mask="bool B H W?", distance=DISTANCES)
def merge_pixels(
    features: Tensor, mask: Tensor | None, distance: str, compactness: float, depth: int, noise: float = 16.0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Leaf y W + x is the pixel (y, x); pixels outside the mask are unused leaves."""
    batch, channels, height, width = features.shape
    leaves = height * width
    check_sizes(batch, leaves, 2 * leaves)
    tree = empty_nodes(batch, leaves, channels, accumulation_dtype(features.dtype), features)
    if batch == 0 or leaves == 0:
        return tree
    nodes = tree.parent.shape[1]
    mask = None if mask is None else mask.contiguous()
    node = tree.parent.new_empty(batch * leaves, dtype=torch.int64)
    edges, lengths = node.new_empty(2 * len(node)), node.new_empty(2 * len(node))
    launch(
        _pixel_kernel,
        cdiv(batch * nodes, BLOCK),
        node,
        mask,
        tree.parent,
        tree.round,
        tree.count,
        tree.centroid,
        tree.box,
        tree.boundary,
        node,
        edges,
        lengths,
        batch * nodes,
        nodes,
        height,
        width,
        BLOCK=BLOCK,
    )
    sizes = (tree.mean.numel(), nodes, channels, height, width)
    programs = cdiv(tree.mean.numel(), BLOCK)
    launch(_feature_kernel, programs, node, features, mask, tree.mean, tree.m2, *sizes, *features.stride(), BLOCK=BLOCK)
    merge(tree, edges, lengths, node, distance, compactness, depth, noise, planar=True)
    return tree
