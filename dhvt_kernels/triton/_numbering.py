"""Segments of leaves, numbered in the order of their lowest ones."""

import torch
from torch import Tensor

from ._lanes import lanes
from ._language import cdiv, jit, tl
from ._launch import launch

BLOCK = 1024


@jit
def _lowest_kernel(
    owner,  # [R,L]
    lowest,  # [R,V] in and out
    leaves,
    nodes,
    total,  # R L
    BLOCK: tl.constexpr,
):
    """A lane per leaf; 4 bytes in, and one minimum."""
    index, here = lanes(total, BLOCK)
    v = tl.load(owner + index, mask=here, other=-1)
    tl.atomic_min(lowest + index // leaves * nodes + v, (index % leaves).to(tl.int32), mask=v >= 0, sem="relaxed")


@jit
def _leads_kernel(
    owner,  # [R,L]
    lowest,  # [R,V]
    leads,  # [R,L] out
    leaves,
    nodes,
    total,  # R L
    BLOCK: tl.constexpr,
):
    """A lane per leaf: whether it is the lowest of its segment. 12 bytes per leaf."""
    index, here = lanes(total, BLOCK)
    v = tl.load(owner + index, mask=here, other=-1)
    first = tl.load(lowest + index // leaves * nodes + v, mask=v >= 0, other=-1)
    tl.store(leads + index, (first == index % leaves).to(tl.int32), mask=here)


@jit
def _number_kernel(
    owner,  # [R,L]
    lowest,  # [R,V]
    ordinal,  # [R,L] leading leaves up to this one, in this row and those before
    segment,  # [R,L] out
    node,  # [R,K] out
    counts,  # [R] out
    leaves,
    nodes,
    capacity,  # K
    total,  # R L
    BLOCK: tl.constexpr,
):
    """A lane per leaf; some 20 bytes each."""
    index, here = lanes(total, BLOCK)
    row, leaf = index // leaves, index % leaves
    v = tl.load(owner + index, mask=here, other=-1)
    first = tl.load(lowest + row * nodes + v, mask=v >= 0, other=-1)
    before = tl.load(ordinal + row * leaves - 1, mask=here & (row > 0), other=0)
    number = tl.where(v >= 0, tl.load(ordinal + row * leaves + first, mask=v >= 0, other=0) - before, 0) - 1
    tl.store(segment + index, number, mask=here)
    tl.store(node + row * capacity + number, v, mask=(first == leaf) & (number < capacity))
    ends = here & (leaf == leaves - 1)
    tl.store(counts + row, tl.load(ordinal + index, mask=ends, other=0) - before, mask=ends)


def number_segments(owner: Tensor, nodes: int, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    """owner [R,L], a node or -1 of each leaf, to segment [R,L], node of the first K segments [R,K], counts [R]."""
    rows, leaves = owner.shape
    grid = cdiv(rows * leaves, BLOCK), owner
    sizes = leaves, nodes
    lowest = owner.new_full((rows, nodes), leaves)
    leads, segment = torch.empty_like(owner), torch.empty_like(owner)
    node, counts = owner.new_full((rows, capacity), -1), owner.new_zeros(rows)
    launch(_lowest_kernel, *grid, owner, lowest, *sizes, owner.numel(), BLOCK=BLOCK)
    launch(_leads_kernel, *grid, owner, lowest, leads, *sizes, owner.numel(), BLOCK=BLOCK)
    ordinal = leads.flatten().cumsum(0, dtype=torch.int32)  # of all: torch sums a row with one block of threads
    launch(
        _number_kernel,
        *grid,
        owner,
        lowest,
        ordinal,
        segment,
        node,
        counts,
        *sizes,
        capacity,
        owner.numel(),
        BLOCK=BLOCK,
    )
    return segment, node, counts
