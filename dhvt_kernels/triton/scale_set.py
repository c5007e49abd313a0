"""The strengths at which each node of a tree is in the cut of least cost."""

import torch
from torch import Tensor

from ._checked import checked
from ._forest import children_at, column, finite_terms, forest_of, node_at, parent_at
from ._language import jit, tl
from ._launch import launch
from ._levels import BLOCK, find_levels
from ._math import wide

_NEVER = tl.constexpr(float("inf"))
_LARGEST = tl.constexpr(torch.finfo(torch.float32).max)
_LARGEST_DOUBLE = tl.constexpr(torch.finfo(torch.float64).max)


@jit
def _crossing(gain, saved):
    """The least strength >= 0 at which what a node saves outweighs what it costs more; infinite where there is none."""
    strength = gain / tl.where(saved > 0, saved, 1.0)
    strength = tl.where((saved > 0) & (strength <= _LARGEST_DOUBLE), strength, _NEVER)
    return tl.where(gain > 0, strength, 0.0)


@jit
def _float_above(value):
    """The least float32 that is not below a number >= 0; infinity above the largest."""
    holds = value <= _LARGEST
    rounded = tl.where(holds, value, 0.0).to(tl.float32)
    next_bits = rounded.to(tl.int32, bitcast=True) + 1
    above = tl.where(rounded.to(tl.float64) < value, next_bits.to(tl.float32, bitcast=True), rounded)
    return tl.where(holds, above, _NEVER)


@jit
def _before(
    a,
    b,
    scales,  # [W]
    here,
):
    """Whether node a leaves a heap before b: a total order, so that it does not depend on the heap's shape."""
    x, y = tl.load(scales + a, mask=here, other=0), tl.load(scales + b, mask=here, other=0)
    return here & ((x > y) | ((x == y) & (a > b)))


@jit
def _meld(
    a,
    b,
    left,  # [W] in and out
    right,  # [W] in and out
    scales,  # [W]
):
    """Joins two skew heaps (Sleator and Tarjan) per lane, -1 for an empty one: all lanes walk down together."""
    both = (a >= 0) & (b >= 0)
    swaps = _before(b, a, scales, both)
    root = tl.where((a < 0) | swaps, b, a)
    other = tl.where(swaps, a, b)
    at = tl.where(both, root, -1)
    while tl.max(at) >= 0:
        here = at >= 0
        follows = tl.load(right + at, mask=here, other=-1)
        aside = tl.load(left + at, mask=here, other=-1)
        tl.debug_barrier()
        tl.store(right + at, aside, mask=here)
        goes_on = follows >= 0
        first = _before(follows, other, scales, goes_on)
        child = tl.where(first, follows, other)
        tl.store(left + at, child, mask=here)
        other = tl.where(goes_on & ~first, follows, other)
        at = tl.where(goes_on, child, -1)
    tl.debug_barrier()
    return root


@jit
def _scales_kernel(
    links,  # [R,4,W]
    starts,  # [R,size]
    terms,  # [R,2,W]
    lines,  # [R,2,W] scratch, by position: the cost of the best cut below, at great strength
    scales,  # [R,W] scratch, by node, as all that follows: from this strength on it costs no more than that
    changes,  # [R,2,W] scratch: of the line at that strength, downwards
    heaps,  # [R,3,W] scratch: by position, the heap of the nodes that enter the cut below; of its nodes, the children
    lower,  # [R,W] out
    upper,  # [R,W] out
    width,
    size,
    BLOCK: tl.constexpr,
):
    """A program per forest, a lane per node of a level.

    Up the levels a lane melds its children's heaps, and takes out the changes above its own scale, each change once in
    all. Then down, for the least scale above. Some 200 bytes per node.
    """
    forest, links, begins, levels, _ = forest_of(links, starts, width, size)
    row = forest * width
    terms += 2 * row
    lines += 2 * row
    scales += row
    changes += 2 * row
    left, right = heaps + 3 * row + width, heaps + 3 * row + 2 * wide(width)
    heaps += 3 * row
    lower += row
    upper += row
    level = levels - 1
    while level >= 0:
        end = tl.load(begins + level + 1)
        begin = tl.load(begins + level)
        while begin < end:
            i, here = column(begin, end, BLOCK)
            v = node_at(links, i, here)
            first, last = children_at(links, width, i, here)
            likelihood = tl.load(terms + i, mask=here, other=0)
            penalty = tl.load(terms + width + i, mask=here, other=0)
            below_likelihood, below_penalty = likelihood * 0, penalty * 0
            heap = v * 0 - 1
            child = first
            while tl.max(last - child) > 0:
                goes_on = child < last
                below_likelihood += tl.load(lines + child, mask=goes_on, other=0)
                below_penalty += tl.load(lines + width + child, mask=goes_on, other=0)
                heap = _meld(heap, tl.load(heaps + child, mask=goes_on, other=-1), left, right, scales)
                child += 1
            strength = _crossing(likelihood - below_likelihood, below_penalty - penalty)
            over = (heap >= 0) & (tl.load(scales + heap, mask=heap >= 0, other=0) > strength)
            while tl.max(over.to(tl.int32)) == 1:
                below_likelihood += tl.load(changes + heap, mask=over, other=0)
                below_penalty += tl.load(changes + width + heap, mask=over, other=0)
                a, b = tl.load(left + heap, mask=over, other=-1), tl.load(right + heap, mask=over, other=-1)
                rest = _meld(a, b, left, right, scales)
                heap = tl.where(over, rest, heap)
                crossing = _crossing(likelihood - below_likelihood, below_penalty - penalty)
                strength = tl.where(over, crossing, strength)
                over = over & (heap >= 0) & (tl.load(scales + heap, mask=heap >= 0, other=0) > strength)
            is_leaf = first == last
            enters = here & ~is_leaf & (strength < _NEVER)
            tl.store(scales + v, tl.where(is_leaf, 0.0, strength), mask=here)
            tl.store(changes + v, below_likelihood - likelihood, mask=enters)
            tl.store(changes + width + v, below_penalty - penalty, mask=enters)
            tl.store(left + v, heap, mask=enters)
            tl.store(right + v, heap * 0 - 1, mask=enters)
            tl.store(heaps + i, tl.where(enters, v, heap), mask=here)
            whole = is_leaf | enters
            tl.store(lines + i, tl.where(whole, likelihood, below_likelihood), mask=here)
            tl.store(lines + width + i, tl.where(whole, penalty, below_penalty), mask=here)
            begin += BLOCK
        tl.debug_barrier()
        level -= 1
    level = 0
    while level < levels:
        end = tl.load(begins + level + 1)
        begin = tl.load(begins + level)
        while begin < end:
            i, here = column(begin, end, BLOCK)
            v, up = node_at(links, i, here), parent_at(links, width, i, here)
            above = tl.load(lower + node_at(links, up, up >= 0), mask=up >= 0, other=_NEVER)
            own = _float_above(tl.load(scales + v, mask=here, other=0))
            tl.store(upper + v, above, mask=here)
            tl.store(lower + v, tl.where(own < above, own, above), mask=here)
            begin += BLOCK
        tl.debug_barrier()
        level += 1


@checked(parent="int32 B V", likelihood="accumulated B V", penalty="same B V", round="int32 B V")
def scale_set(likelihood: Tensor, penalty: Tensor, parent: Tensor, round: Tensor) -> tuple[Tensor, Tensor]:
    """The range of strengths [lower, upper) of every node; empty, at infinity, for unused ones."""
    levels = find_levels(parent, round)
    terms = finite_terms(levels, likelihood, penalty)
    links, starts, _ = levels
    forests, _, width = links.shape
    lower = likelihood.new_full(parent.shape, float("inf"), dtype=torch.float32)
    upper = lower.clone()
    launch(
        _scales_kernel,
        forests,
        parent,
        links,
        starts,
        terms,
        torch.empty_like(terms),
        terms.new_empty(forests, width),
        torch.empty_like(terms),
        links.new_empty(forests, 3, width),
        lower,
        upper,
        width,
        starts.shape[1],
        BLOCK=BLOCK,
        warps=8,
    )
    return lower, upper
