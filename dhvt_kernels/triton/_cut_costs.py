"""Costs of the best cuts below every node of a forest, at several strengths at once: a lane each."""

from ._forest import USUAL_CHILDREN, children_at, column, node_at, sum_children
from ._language import jit, tl
from ._math import wide


@jit
def cost_at(
    links,  # [4,W]
    terms,  # [2,W]
    strengths,  # [G,LANES]
    nodes,  # of an image
    width,
    i,
    here,
    LANES: tl.constexpr,
):
    image = wide(node_at(links, i, here)) // nodes
    strength = tl.load(strengths + image * LANES + tl.arange(0, LANES)[None, :]).to(tl.float64)
    return tl.load(terms + i, mask=here, other=0) + strength * tl.load(terms + width + i, mask=here, other=0)


@jit
def optimal_costs(
    links,
    begins,
    levels,
    terms,
    best,  # [W,LANES] out: min(cost, sum of the children's best)
    segments,  # [W,LANES] out: of that cut
    strengths,  # [G,LANES]
    nodes,  # of an image
    width,
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
            first, last = children_at(links, width, i, here)
            cost = cost_at(links, terms, strengths, nodes, width, i, here, LANES)
            below = tl.zeros([BLOCK, LANES], tl.float64)
            count = tl.zeros([BLOCK, LANES], tl.int32)
            child, left = first, wide(1)
            while left > 0:
                for _ in tl.static_range(USUAL_CHILDREN):
                    below += tl.load(best + child * LANES + lane, mask=child < last, other=0)
                    count += tl.load(segments + child * LANES + lane, mask=child < last, other=0)
                    child += 1
                left = tl.max(last - child)
            splits = (first < last) & (below < cost)
            at = i * LANES + lane
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
    best,  # [W,LANES]
    further,  # [W,LANES] out: within one generation more
    strengths,  # [G,LANES]
    nodes,  # of an image
    width,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
):
    lane = tl.arange(0, LANES)[None, :]
    begin = 0
    while begin < used:
        i, here = column(begin, used, BLOCK)
        first, last = children_at(links, width, i, here)
        cost = cost_at(links, terms, strengths, nodes, width, i, here, LANES)
        below = sum_children(best, first, last, LANES)
        tl.store(further + i * LANES + lane, tl.where((first < last) & (below < cost), below, cost), mask=here)
        begin += BLOCK
    tl.debug_barrier()


@jit
def greedy_costs(
    links,
    used,
    levels,
    terms,
    best,  # [2,W,LANES] out
    strengths,  # [G,LANES]
    nodes,  # of an image
    width,
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
        cost = cost_at(links, terms, strengths, nodes, width, i, here, LANES)
        tl.store(best + i * LANES + lane, cost, mask=here)
        begin += BLOCK
    tl.debug_barrier()
    half = wide(width) * LANES
    generations = tl.maximum(tl.minimum(lookahead, levels), 1) - 1  # there are no more than levels
    generation = 0
    while generation < generations:
        parity = generation % 2
        _look_ahead(
            links, used, terms, best + parity * half, best + (1 - parity) * half, strengths, nodes, width, BLOCK, LANES
        )
        generation += 1
    return best + generations % 2 * half


@jit
def greedy_segments(
    links,
    begins,
    levels,
    terms,
    best,  # [W,LANES] of greedy_costs
    segments,  # [W,LANES] out: of the greedy cut of what is below each node
    strengths,  # [G,LANES]
    nodes,  # of an image
    width,
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
            first, last = children_at(links, width, i, here)
            gain = cost_at(links, terms, strengths, nodes, width, i, here, LANES) - sum_children(
                best, first, last, LANES
            )
            count = tl.zeros([BLOCK, LANES], tl.int32)
            child, left = first, wide(1)
            while left > 0:
                for _ in tl.static_range(USUAL_CHILDREN):
                    count += tl.load(segments + child * LANES + lane, mask=child < last, other=0)
                    child += 1
                left = tl.max(last - child)
            splits = (first < last) & (gain > min_gain)
            tl.store(segments + i * LANES + lane, tl.where(splits, count, 1), mask=here)
            begin += BLOCK
        tl.debug_barrier()
        level -= 1
