"""A forest of images as the program that is alone with it goes up and down its levels.

Kernels hold nodes in columns, i [BLOCK,1]. Numbers of the nodes may have several lanes each, [W,LANES] in memory.
"""

import torch
from torch import Tensor

from ._language import jit, tl
from ._launch import launch
from ._levels import BLOCK, Levels
from ._math import wide

#: What an internal node with a likelihood of NaN or infinity costs more than its children.
NON_FINITE_COST = tl.constexpr(1e15)
#: Children that are visited before it is asked whether a node of the block has more.
USUAL_CHILDREN = tl.constexpr(2)


@jit
def forest_of(
    links,  # [R,4,W]
    starts,  # [R,size]
    width,
    size,
):
    """This program's forest, its links [4,W], where its levels begin, their number, and that of its used nodes."""
    forest = tl.program_id(0).to(tl.int64)
    begins = starts + forest * size + 1
    levels = tl.load(begins - 1)
    return forest, links + forest * 4 * width, begins, levels, tl.load(begins + levels)


@jit
def column(begin, end, BLOCK: tl.constexpr):
    """The positions from `begin` on, and which of them are below `end`."""
    i = wide(begin) + tl.arange(0, BLOCK)[:, None]
    return i, i < end


@jit
def node_at(links, i, here):
    return tl.load(links + i, mask=here, other=0)


@jit
def parent_at(links, width, i, here):
    return tl.load(links + width + i, mask=here, other=-1)


@jit
def children_at(links, width, i, here):
    """The position of the first child, and the one after the last; the same for a leaf."""
    first = links + 2 * wide(width) + i
    return wide(tl.load(first, mask=here, other=0)), wide(tl.load(first + width, mask=here, other=0))


@jit
def sum_children(
    values,  # [W,LANES] of float64
    first,
    last,
    LANES: tl.constexpr,
):
    """Sums over the children in their order, one after the other."""
    lane = tl.arange(0, LANES)[None, :]
    total = tl.zeros([first.shape[0], LANES], tl.float64)
    child, left = first, wide(1)
    while left > 0:
        for _ in tl.static_range(USUAL_CHILDREN):
            total += tl.load(values + child * LANES + lane, mask=child < last, other=0)
            child += 1
        left = tl.max(last - child)
    return total


@jit
def is_finite(x):
    return tl.abs(x) < float("inf")


@jit
def _terms_kernel(
    links,  # [R,4,W]
    starts,  # [R,size]
    likelihood,  # [R,W]
    penalty,  # [R,W]
    terms,  # [R,2,W] out
    width,
    size,
    BLOCK: tl.constexpr,
):
    """A program per forest. Only where an inner node is not finite it goes up the levels. 24 bytes per node."""
    forest, links, begins, levels, used = forest_of(links, starts, width, size)
    likelihood += forest * width
    penalty += forest * width
    terms += forest * 2 * width
    broken = 0
    begin = 0
    while begin < used:
        i, here = column(begin, used, BLOCK)
        v = node_at(links, i, here)
        first, last = children_at(links, width, i, here)
        x = tl.load(likelihood + v, mask=here, other=0).to(tl.float64)
        y = tl.load(penalty + v, mask=here, other=0).to(tl.float64)
        is_leaf = first == last
        broken = tl.maximum(broken, tl.max((~is_finite(x) & ~is_leaf).to(tl.int32)))
        tl.store(terms + i, tl.where(is_leaf & ~is_finite(x), 0.0, x), mask=here)
        tl.store(terms + width + i, tl.where(is_finite(y), y, 0.0), mask=here)
        begin += BLOCK
    level = tl.where(broken > 0, levels, 0) - 1
    while level >= 0:
        tl.debug_barrier()
        end = tl.load(begins + level + 1)
        begin = tl.load(begins + level)
        while begin < end:
            i, here = column(begin, end, BLOCK)
            first, last = children_at(links, width, i, here)
            x = tl.load(terms + i, mask=here, other=0)
            repaired = NON_FINITE_COST + sum_children(terms, first, last, 1)
            tl.store(terms + i, repaired, mask=here & ~is_finite(x))
            begin += BLOCK
        level -= 1


def finite_terms(levels: Levels, likelihood: Tensor, penalty: Tensor) -> Tensor:
    """[R,2,W] of float64: likelihood and penalty at each position, all finite."""
    rows, _, width = levels.links.shape
    terms = likelihood.new_empty(rows, 2, width, dtype=torch.float64)
    inputs = likelihood.contiguous(), penalty.contiguous()
    size = levels.starts.shape[1]
    launch(_terms_kernel, rows, terms, levels.links, levels.starts, *inputs, terms, width, size, BLOCK=BLOCK)
    return terms
