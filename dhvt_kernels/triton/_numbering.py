"""Segments of leaves, numbered in the order of their lowest ones."""

import torch
from torch import Tensor

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
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(owner + index, mask=index < total, other=-1)
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
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(owner + index, mask=index < total, other=-1)
    first = tl.load(lowest + index // leaves * nodes + v, mask=v >= 0, other=-1)
    tl.store(leads + index, (first == index % leaves).to(tl.int32), mask=index < total)


@jit
def _number_kernel(
    owner,  # [R,L]
    lowest,  # [R,V]
    ordinal,  # [R,L] leading leaves up to this one
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
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = index < total
    row, leaf = index // leaves, index % leaves
    v = tl.load(owner + index, mask=here, other=-1)
    first = tl.load(lowest + row * nodes + v, mask=v >= 0, other=-1)
    number = tl.load(ordinal + row * leaves + first, mask=v >= 0, other=0) - 1
    tl.store(segment + index, number, mask=here)
    tl.store(node + row * capacity + number, v, mask=(first == leaf) & (number < capacity))
    tl.store(counts + row, tl.load(ordinal + index, mask=here, other=0), mask=here & (leaf == leaves - 1))


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
    ordinal = leads.cumsum(1, dtype=torch.int32)
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
