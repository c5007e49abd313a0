"""One image's forest as the program that is alone with it goes up and down its levels.

Kernels hold nodes in columns, i [BLOCK,1]. Numbers of the nodes may have several lanes each, [V,LANES] in memory.
"""

import torch
from torch import Tensor

from ._language import jit, tl
from ._launch import launch
from ._levels import BLOCK, Levels
from ._math import wide

#: What an internal node with a likelihood of NaN or infinity costs more than its children.
NON_FINITE_COST = tl.constexpr(1e15)


@jit
def forest_of(
    links,  # [B,4,V]
    starts,  # [B,size]
    nodes,
    size,
):
    """This program's image, its links [4,V], where its levels begin, their number, and that of its used nodes."""
    image = tl.program_id(0).to(tl.int64)
    begins = starts + image * size + 1
    levels = tl.load(begins - 1)
    return image, links + image * 4 * nodes, begins, levels, tl.load(begins + levels)


@jit
def column(begin, end, BLOCK: tl.constexpr):
    """The positions from `begin` on, and which of them are below `end`."""
    i = begin + tl.arange(0, BLOCK)[:, None]
    return i, i < end


@jit
def node_at(links, nodes, i, here):
    return tl.load(links + i, mask=here, other=0)


@jit
def parent_at(links, nodes, i, here):
    return tl.load(links + nodes + i, mask=here, other=-1)


@jit
def children_at(links, nodes, i, here):
    """The position of the first child, and the one after the last; the same for a leaf."""
    first = links + 2 * wide(nodes) + i
    return tl.load(first, mask=here, other=0), tl.load(first + nodes, mask=here, other=0)


@jit
def sum_children(
    values,  # [V,LANES] of float64
    first,
    last,
    LANES: tl.constexpr,
):
    """Sums over the children in their order, one after the other."""
    lane = tl.arange(0, LANES)[None, :]
    total = tl.zeros([first.shape[0], LANES], tl.float64)
    child = first
    while tl.max(last - child) > 0:
        total += tl.load(values + wide(child) * LANES + lane, mask=child < last, other=0)
        child += 1
    return total


@jit
def is_finite(x):
    return tl.abs(x) < float("inf")


@jit
def _terms_kernel(
    links,  # [B,4,V]
    starts,  # [B,size]
    likelihood,  # [B,V]
    penalty,  # [B,V]
    terms,  # [B,2,V] out
    nodes,
    size,
    BLOCK: tl.constexpr,
):
    """A program per image. Only where an inner node is not finite it goes up the levels. 24 bytes per node."""
    image, links, begins, levels, used = forest_of(links, starts, nodes, size)
    likelihood += image * nodes
    penalty += image * nodes
    terms += image * 2 * nodes
    broken = 0
    begin = 0
    while begin < used:
        i, here = column(begin, used, BLOCK)
        v = node_at(links, nodes, i, here)
        first, last = children_at(links, nodes, i, here)
        x = tl.load(likelihood + v, mask=here, other=0).to(tl.float64)
        y = tl.load(penalty + v, mask=here, other=0).to(tl.float64)
        is_leaf = first == last
        broken = tl.maximum(broken, tl.max((~is_finite(x) & ~is_leaf).to(tl.int32)))
        tl.store(terms + i, tl.where(is_leaf & ~is_finite(x), 0.0, x), mask=here)
        tl.store(terms + nodes + i, tl.where(is_finite(y), y, 0.0), mask=here)
        begin += BLOCK
    level = tl.where(broken > 0, levels, 0) - 1
    while level >= 0:
        tl.debug_barrier()
        end = tl.load(begins + level + 1)
        begin = tl.load(begins + level)
        while begin < end:
            i, here = column(begin, end, BLOCK)
            first, last = children_at(links, nodes, i, here)
            x = tl.load(terms + i, mask=here, other=0)
            repaired = NON_FINITE_COST + sum_children(terms, first, last, 1)
            tl.store(terms + i, repaired, mask=here & ~is_finite(x))
            begin += BLOCK
        level -= 1


def finite_terms(levels: Levels, likelihood: Tensor, penalty: Tensor) -> Tensor:
    """[B,2,V] of float64: likelihood and penalty at each position, all finite."""
    batch, nodes = likelihood.shape
    terms = likelihood.new_empty(batch, 2, nodes, dtype=torch.float64)
    inputs = likelihood.contiguous(), penalty.contiguous()
    launch(_terms_kernel, batch, terms, *levels, *inputs, terms, nodes, levels.starts.shape[1], BLOCK=BLOCK)
    return terms
