"""Costs of the best cuts below every node of a forest, at several strengths at once: a lane each."""

from ._forest import children_at, column, sum_children
from ._language import jit, tl
from ._math import wide


@jit
def cost_at(
    terms,  # [2,V]
    nodes,
    i,
    here,
    strength,
):
    return tl.load(terms + i, mask=here, other=0) + strength * tl.load(terms + nodes + i, mask=here, other=0)


@jit
def optimal_costs(
    links,
    begins,
    levels,
    terms,
    best,  # [V,LANES] out: min(cost, sum of the children's best)
    segments,  # [V,LANES] out: of that cut
    nodes,
    strength,  # [1,LANES]
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
):
    """Ties keep the parent: fewer tokens. Up the levels, with a barrier after each."""
    lane = tl.arange(0, LANES)[None, :]
    level = levels - 1
    while level >= 0:
        end = tl.load(begins + level + 1)
        begin = tl.load(begins + level)
        while begin < end:
            i, here = column(begin, end, BLOCK)
            first, last = children_at(links, nodes, i, here)
            cost = cost_at(terms, nodes, i, here, strength)
            below = tl.zeros([BLOCK, LANES], tl.float64)
            count = tl.zeros([BLOCK, LANES], tl.int32)
            child = first
            while tl.max(last - child) > 0:
                at = wide(child) * LANES + lane
                below += tl.load(best + at, mask=child < last, other=0)
                count += tl.load(segments + at, mask=child < last, other=0)
                child += 1
            splits = (first < last) & (below < cost)
            at = wide(i) * LANES + lane
            tl.store(best + at, tl.where(splits, below, cost), mask=here)
            tl.store(segments + at, tl.where(splits, count, 1), mask=here)
            begin += BLOCK
        tl.debug_barrier()
        level -= 1


@jit
def _look_ahead(
    links,
    used,
    terms,
    best,  # [V,LANES]
    further,  # [V,LANES] out: within one generation more
    nodes,
    strength,  # [1,LANES]
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
):
    lane = tl.arange(0, LANES)[None, :]
    begin = 0
    while begin < used:
        i, here = column(begin, used, BLOCK)
        first, last = children_at(links, nodes, i, here)
        cost = cost_at(terms, nodes, i, here, strength)
        below = sum_children(best, first, last, LANES)
        tl.store(further + wide(i) * LANES + lane, tl.where((first < last) & (below < cost), below, cost), mask=here)
        begin += BLOCK
    tl.debug_barrier()


@jit
def greedy_costs(
    links,
    used,
    levels,
    terms,
    best,  # [2,V,LANES] out
    nodes,
    strength,  # [1,LANES]
    lookahead,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
):
    """Best costs within lookahead - 1 generations, in one of the halves of `best`; all nodes look ahead at once.

    Returns that half.
    """
    lane = tl.arange(0, LANES)[None, :]
    begin = 0
    while begin < used:
        i, here = column(begin, used, BLOCK)
        cost = cost_at(terms, nodes, i, here, strength)
        tl.store(best + wide(i) * LANES + lane, cost, mask=here)
        begin += BLOCK
    tl.debug_barrier()
    half = wide(nodes) * LANES
    generations = tl.minimum(lookahead, tl.maximum(levels, 1)) - 1  # there are no more
    generation = 0
    while generation < generations:
        parity = generation % 2
        _look_ahead(links, used, terms, best + parity * half, best + (1 - parity) * half, nodes, strength, BLOCK, LANES)
        generation += 1
    return best + generations % 2 * half


@jit
def greedy_segments(
    links,
    begins,
    levels,
    terms,
    best,  # [V,LANES] of greedy_costs
    segments,  # [V,LANES] out: of the greedy cut of what is below each node
    nodes,
    strength,  # [1,LANES]
    min_gain,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
):
    lane = tl.arange(0, LANES)[None, :]
    level = levels - 1
    while level >= 0:
        end = tl.load(begins + level + 1)
        begin = tl.load(begins + level)
        while begin < end:
            i, here = column(begin, end, BLOCK)
            first, last = children_at(links, nodes, i, here)
            gain = cost_at(terms, nodes, i, here, strength) - sum_children(best, first, last, LANES)
            count = tl.zeros([BLOCK, LANES], tl.int32)
            child = first
            while tl.max(last - child) > 0:
                count += tl.load(segments + wide(child) * LANES + lane, mask=child < last, other=0)
                child += 1
            splits = (first < last) & (gain > min_gain)
            tl.store(segments + wide(i) * LANES + lane, tl.where(splits, count, 1), mask=here)
            begin += BLOCK
        tl.debug_barrier()
        level -= 1
