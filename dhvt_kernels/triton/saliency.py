"""How strong the boundaries between the leaves of a tree are: one lane per pixel, for its right and lower neighbour."""

import torch
from torch import Tensor

from ._checked import checked
from ._lanes import lanes
from ._language import cdiv, jit, tl
from ._launch import launch
from ._math import wide
from ._parents import parent_of

BLOCK = 256
#: Of leaves that never come into one segment.
NEVER_JOINED = tl.constexpr(3.4028234663852886e38)


@jit
def _joining_strength(a, b, touch, lower, parent, round, leaves, nodes):
    """`lower` of the lowest common ancestor of two leaves that touch, 0 elsewhere, as NaN and negative numbers.

    Of two different nodes the one with the lower number is no ancestor of the other, so it goes up.
    """
    touch = touch & (a != b)
    moves = touch
    while tl.max(moves.to(tl.int32), 0) > 0:
        low, high = tl.minimum(a, b), tl.maximum(a, b)
        up = parent_of(parent, round, low, low, leaves, nodes, moves)
        a, b = tl.where(moves, up, a), tl.where(moves, high, b)
        moves = moves & (a != b) & (a >= 0)
    joined = touch & (a >= 0)
    strength = tl.load(lower + a, mask=joined, other=0)
    strength = tl.where(strength > 0, tl.minimum(strength, NEVER_JOINED), 0)
    return tl.where(touch & (a < 0), NEVER_JOINED, strength)


@jit
def _leaf_at(labels, at, here, leaves):
    """The leaf of a pixel, -1 for none."""
    label = tl.load(labels + at, mask=here, other=-1)
    return tl.where(label < leaves, label, -1)


@jit
def _saliency_kernel(
    labels,  # [B,H,W]
    lower,  # [B,V]
    parent,  # [B,V]
    round,  # [B,V]
    out,  # [B,H,W]
    height,
    width,
    leaves,  # L
    nodes,  # V = 2 L - 1
    pixels,  # B H W
    BLOCK: tl.constexpr,
):
    """Reads and writes 4 bytes per pixel; the walks up the tree read from the caches, as many steps as it is deep."""
    at, here = lanes(pixels, BLOCK)
    tree = at // width // height * wide(nodes)
    leaf = _leaf_at(labels, at, here, leaves)
    right = _leaf_at(labels, at + 1, here & (at % width + 1 < width), leaves)
    below = _leaf_at(labels, at + width, here & (at // width % height + 1 < height), leaves)
    lower += tree
    parent += tree
    round += tree
    to_right = _joining_strength(leaf, right, (leaf >= 0) & (right >= 0), lower, parent, round, leaves, nodes)
    to_below = _joining_strength(leaf, below, (leaf >= 0) & (below >= 0), lower, parent, round, leaves, nodes)
    tl.store(out + at, tl.maximum(to_right, to_below), mask=here)


@checked(labels="int32 B H W", parent="int32 B V", lower="float32 B V", round="int32 B V")
def saliency(labels: Tensor, lower: Tensor, parent: Tensor, round: Tensor) -> Tensor:
    """At each pixel, the greatest strength at which it and its right or lower neighbour come into one segment."""
    batch, height, width = labels.shape
    nodes = parent.shape[1]
    out = labels.new_empty(batch, height, width, dtype=torch.float32)
    pixels = batch * height * width
    launch(
        _saliency_kernel,
        cdiv(pixels, BLOCK),
        labels,
        labels.contiguous(),
        lower.contiguous(),
        parent.contiguous(),
        round.contiguous(),
        out,
        height,
        width,
        (nodes + 1) // 2,
        nodes,
        pixels,
        BLOCK=BLOCK,
    )
    return out
