"""The families of binary trees, and their inner nodes generation by generation.

A generation is a distance from the root: the parents of its nodes are all in the one before. One program has an image
and goes from generation to generation, with a barrier between two.

The levels of _levels.py are other ones: those are of all nodes with a used leaf below, however many children they have.
Here a parent has exactly two children, with leaves below or not (csrc/cpu/merge_tree.cpp), and leaves need no order.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ._lanes import BLOCK, lanes
from ._language import cdiv, jit, tl
from ._launch import launch
from ._parents import parent_of


class Family(NamedTuple):
    """What is known of an image's V nodes, the L leaves first, and of its I = V - L inner nodes."""

    giver: Tensor  # [B,V] the inner node that passes on to a node: its parent if that has two children; -1 for none
    low: Tensor  # [B,I] the lower one of two children; -1 if there are not two
    high: Tensor  # [B,I] the higher one


class Generations(NamedTuple):
    order: Tensor  # [B,I] inner nodes, generation after generation from the roots down
    begin: Tensor  # [B,I+1] of the generations, in the order
    number: Tensor  # [B] of generations


@jit
def _load_parent(parent, round, row, leaves, nodes, here):
    """Number of the parent among the inner nodes, -1 for none; with rounds, unused nodes have no family."""
    p = parent_of(parent, round, row, row % nodes, leaves, nodes, here)
    return tl.where(p >= 0, p - leaves, -1)


@jit
def _child_kernel(
    parent,  # [B V]
    round,  # [B V] or None
    children,  # [B I] 0
    low,  # [B I] V
    high,  # [B I] -1
    size,  # B V
    nodes,  # V
    BLOCK: tl.constexpr,
):
    """A lane per node."""
    row, here = lanes(size, BLOCK)
    leaves = (nodes + 1) // 2
    p = _load_parent(parent, round, row, leaves, nodes, here)
    has = p >= 0
    at = row // nodes * (nodes - leaves) + p
    tl.atomic_add(children + at, 1, mask=has, sem="relaxed")
    tl.atomic_min(low + at, (row % nodes).to(tl.int32), mask=has, sem="relaxed")
    tl.atomic_max(high + at, (row % nodes).to(tl.int32), mask=has, sem="relaxed")


@jit
def _giver_kernel(
    parent,  # [B V]
    round,  # [B V] or None
    children,  # [B I]
    low,  # [B I]
    giver,  # [B V]
    way,  # [B I] distance << 32 | 1 + number of the inner node at the end; 0 for a root
    size,  # B V
    nodes,  # V
    BLOCK: tl.constexpr,
):
    """A lane per node."""
    row, here = lanes(size, BLOCK)
    leaves = (nodes + 1) // 2
    inner = row // nodes * (nodes - leaves)
    p = _load_parent(parent, round, row, leaves, nodes, here)
    p = tl.where(tl.load(children + inner + p, mask=p >= 0, other=0) == 2, p, -1)
    tl.store(giver + row, p.to(tl.int32), mask=here)
    i = row % nodes - leaves
    here = here & (i >= 0)
    tl.store(way + inner + i, tl.where(p >= 0, (tl.full([BLOCK], 1, tl.int64) << 32) | (p + 1), 0), mask=here)
    tl.store(low + inner + i, -1, mask=here & (tl.load(children + inner + i, mask=here, other=2) != 2))


@jit
def _distance_kernel(
    way,  # [B I]
    distance,  # [B I] from the root
    size,  # B I
    inner,  # I
    BLOCK: tl.constexpr,
):
    """A lane per inner node goes up to the root, and lengthens its own way for all that meet it; roots first."""
    index, here = lanes(size, BLOCK)
    index = size - 1 - index
    first = index // inner * inner
    own = tl.load(way + index, mask=here, other=0)
    end = own & 0xFFFFFFFF
    while tl.max(end) > 0:
        going = end > 0
        further = tl.load(way + first + end - 1, mask=going, other=0, volatile=True)
        own = tl.where(going, (((own >> 32) + (further >> 32)) << 32) | (further & 0xFFFFFFFF), own)
        tl.store(way + index, own, mask=going)
        end = own & 0xFFFFFFFF
    tl.store(distance + index, (own >> 32).to(tl.int32), mask=here)


@jit
def _generation_kernel(
    distance,  # [B I] sorted
    begin,  # [B,I+1]
    number,  # [B]
    size,  # B I
    inner,  # I
    BLOCK: tl.constexpr,
):
    """A lane per place in the order."""
    i, here = lanes(size, BLOCK)
    image, place = i // inner, i % inner
    generation = tl.load(distance + i, mask=here, other=0)
    first = here & ((place == 0) | (generation != tl.load(distance + i - 1, mask=here & (place > 0), other=-1)))
    at = begin + image * (inner + 1) + generation
    tl.store(at, place.to(tl.int32), mask=first)
    last = here & (place == inner - 1)
    tl.store(at + 1, inner, mask=last)
    tl.store(number + image, generation + 1, mask=last)


def family(parent: Tensor, round: Tensor | None = None) -> tuple[Family, Generations]:
    """Of any numbers: a parent has a higher number than its child, and is an inner node; others are none."""
    batch, nodes = parent.shape
    inner = nodes // 2
    children = parent.new_zeros(batch, inner)
    found = Family(
        torch.empty_like(parent), parent.new_full((batch, inner), nodes), parent.new_full((batch, inner), -1)
    )
    way, distance = parent.new_empty(batch, inner, dtype=torch.int64), torch.empty_like(children)
    size, programs = parent.numel(), cdiv(parent.numel(), BLOCK)
    launch(_child_kernel, programs, parent, parent, round, children, found.low, found.high, size, nodes, BLOCK=BLOCK)
    launch(
        _giver_kernel, programs, parent, parent, round, children, found.low, found.giver, way, size, nodes, BLOCK=BLOCK
    )
    size, programs = way.numel(), cdiv(way.numel(), BLOCK)
    launch(_distance_kernel, programs, parent, way, distance, size, inner, BLOCK=BLOCK)
    distance, order = torch.sort(distance, dim=1)
    begin, number = parent.new_empty(batch, inner + 1), parent.new_zeros(batch)
    launch(_generation_kernel, programs, parent, distance, begin, number, size, inner, BLOCK=BLOCK)
    return found, Generations(order, begin, number)
