"""Forests with their nodes in an order of levels: what the operators on trees start from."""

from typing import NamedTuple

import torch
from torch import Tensor

from ._lanes import lanes
from ._language import cdiv, jit, tl
from ._launch import launch
from ._math import wide
from ._parents import parent_of

#: Lanes of a program.
BLOCK = 1024
#: Images that are taken together at most.
MOST_IMAGES = 32
_UNUSED = tl.constexpr(2**63 - 1)


class Levels(NamedTuple):
    """The used nodes of forests by their positions: the roots, their children, the children of those, ...

    Of one node the children are neighbours, in ascending order. Small images are taken together, G to a forest of
    W = G V nodes, with those of each after the other, so that a level is wide: [B,V] is [R,W] in memory.
    """

    #: int32 [R,4,W] of each position: the node; the positions of its parent (-1 for a root), of its first child, and
    #: the one after its last child's.
    links: Tensor
    #: int32 [R,L+2] (at most L levels): their number; then where each begins, and where the last one ends.
    starts: Tensor
    #: G
    images: int


@jit
def _parents_kernel(
    parent,  # [B,V]
    round_,  # [B,V]
    ways,  # [2,B,V] out: where the way up from a node has come to, -1 above the root, and its length
    used,  # [B,V] out
    leaves,
    nodes,
    width,  # W
    total,  # B V
    BLOCK: tl.constexpr,
):
    """A lane per node."""
    index, here = lanes(total, BLOCK)
    v = index % nodes
    first = index - v
    p = parent_of(parent, round_, index, v, leaves, nodes, here)
    own = tl.load(round_ + index, mask=here, other=-1) >= 0
    tl.store(ways + index, tl.where(p >= 0, p + (first % width).to(tl.int32), -1), mask=here)
    tl.store(ways + total + index, (p >= 0).to(tl.int32), mask=here)
    tl.store(used + index, (own & (v < leaves)).to(tl.int32), mask=here)


@jit
def _climb_kernel(
    ways,  # [2,R,W]
    further,  # [2,R,W] out
    used,  # [R,W] in and out
    width,
    total,  # R W
    BLOCK: tl.constexpr,
):
    """A lane per node: the way up doubles, and what is at its end is used if the node is. Some 24 bytes per node.

    Several lanes may mark the same node, and a mark may be seen at once or one launch later; in the end all are made.
    """
    index, here = lanes(total, BLOCK)
    up = tl.load(ways + index, mask=here, other=-1)
    goes_on = up >= 0
    above = index - index % width + up
    is_used = tl.load(used + index, mask=goes_on, other=0)
    tl.store(used + above, is_used, mask=goes_on & (is_used != 0))
    tl.store(further + index, tl.load(ways + above, mask=goes_on, other=-1), mask=here)
    length = tl.load(ways + total + index, mask=here, other=0)
    more = tl.load(ways + total + above, mask=goes_on, other=0)
    tl.store(further + total + index, length + more, mask=here)


@jit
def _keys_kernel(
    parent,  # [R,W], -1 for none
    depth,  # [R,W]
    used,  # [R,W]
    keys,  # [R,W] out
    width,
    total,  # R W
    BLOCK: tl.constexpr,
):
    """A lane per node: by depth, then by parent; unused nodes last."""
    index, here = lanes(total, BLOCK)
    p = tl.load(parent + index, mask=here, other=-1)
    key = tl.load(depth + index, mask=here, other=0) * (wide(width) + 1) + p + 1
    is_used = tl.load(used + index, mask=here, other=0) != 0
    tl.store(keys + index, tl.where(is_used, key, _UNUSED), mask=here)


@jit
def _place_kernel(
    keys,  # [R,W] sorted
    order,  # [R,W] node of each
    position,  # [R,W] out: of each node
    starts,  # [R,size] out
    width,
    size,
    total,  # R W
    BLOCK: tl.constexpr,
):
    """A lane per position: where each node is, and where levels begin."""
    index, here = lanes(total, BLOCK)
    i = index % width
    row = index // width
    key = tl.load(keys + index, mask=here, other=_UNUSED)
    is_used = key != _UNUSED
    tl.store(position + index - i + tl.load(order + index, mask=here, other=0), i.to(tl.int32), mask=here)
    next_key = tl.load(keys + index + 1, mask=is_used & (i + 1 < width), other=_UNUSED)
    depth = key // (wide(width) + 1)
    is_last = is_used & (next_key == _UNUSED)
    ends = is_used & (next_key // (wide(width) + 1) != depth)
    tl.store(starts + row * size + 2 + depth, (i + 1).to(tl.int32), mask=ends)
    tl.store(starts + row * size, (depth + 1).to(tl.int32), mask=is_last)


@jit
def _link_kernel(
    keys,  # [R,W] sorted
    order,  # [R,W]
    position,  # [R,W]
    links,  # [R,4,W] out
    width,
    total,  # R W
    BLOCK: tl.constexpr,
):
    """A lane per position: its node and parent, and where the parent's children begin and end."""
    index, here = lanes(total, BLOCK)
    i = index % width
    key = tl.load(keys + index, mask=here, other=_UNUSED)
    is_used = key != _UNUSED
    p = key % (wide(width) + 1) - 1
    child = is_used & (p >= 0)
    up = tl.load(position + index - i + p, mask=child, other=-1)
    out = links + index // width * 4 * width
    tl.store(out + i, tl.load(order + index, mask=here, other=0).to(tl.int32), mask=here)
    tl.store(out + width + i, up, mask=here)
    before = tl.load(keys + index - 1, mask=child & (i > 0), other=-1)
    after = tl.load(keys + index + 1, mask=child & (i + 1 < width), other=-1)
    tl.store(out + 2 * wide(width) + up, i.to(tl.int32), mask=child & (before != key))
    tl.store(out + 3 * wide(width) + up, (i + 1).to(tl.int32), mask=child & (after != key))


def find_levels(parent: Tensor, round: Tensor) -> Levels:
    """Levels of any numbers: parents that are none are left out, and so are inner nodes without a used leaf below."""
    batch, nodes = parent.shape
    leaves = (nodes + 1) // 2
    together = (g for g in range(min(batch, MOST_IMAGES, BLOCK // max(nodes, 1)), 1, -1) if batch % g == 0)
    images = next(together, 1)
    rows, width, total = batch // images, images * nodes, batch * nodes
    grid = cdiv(total, BLOCK), parent
    ways, *spare = parent.new_empty(3, 2, rows, width)
    parents, used = ways[0], parent.new_empty(rows, width)
    inputs = parent.contiguous(), round.contiguous()
    launch(_parents_kernel, *grid, *inputs, ways, used, leaves, nodes, width, total, BLOCK=BLOCK)
    for step in range((nodes - leaves).bit_length()):  # until every way is at its end
        launch(_climb_kernel, *grid, ways, spare[step % 2], used, width, total, BLOCK=BLOCK)
        ways = spare[step % 2]
    keys = parent.new_empty(rows, width, dtype=torch.int64)
    launch(_keys_kernel, *grid, parents, ways[1], used, keys, width, total, BLOCK=BLOCK)
    keys, order = torch.sort(keys, dim=1, stable=True)
    position = parent.new_empty(rows, width)
    links = parent.new_zeros(rows, 4, width)
    starts = parent.new_zeros(rows, nodes - leaves + 3)
    launch(_place_kernel, *grid, keys, order, position, starts, width, starts.shape[1], total, BLOCK=BLOCK)
    launch(_link_kernel, *grid, keys, order, position, links, width, total, BLOCK=BLOCK)
    return Levels(links, starts, images)
