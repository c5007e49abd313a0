"""The least strength whose cut holds a budget, from the numbers of segments at several strengths at a time."""

from torch import Tensor

from ._cut_costs import greedy_costs, greedy_segments, optimal_costs
from ._forest import column, forest_of
from ._language import jit, next_power_of_2, tl
from ._launch import launch
from ._levels import Levels
from ._math import wide

#: Numbers that a program holds at a time, nodes times strengths; and what it keeps in memory per image, about.
TILE = 4096
MEMORY = 2**17
_LARGEST = tl.constexpr(0x7F7FFFFF)  # the bits of the largest float32


@jit
def _middles(low, high, BITS: tl.constexpr):
    """`low`, then all the middles that may come in BITS halvings, in ascending order: [1,2^BITS]."""
    lane = tl.arange(0, 1 << BITS)[None, :]
    below = low + tl.zeros([1, 1 << BITS], tl.int32)
    above = high + tl.zeros([1, 1 << BITS], tl.int32)
    for bit in tl.static_range(BITS):
        middle = below + (above - below) // 2
        upper = (lane >> (BITS - 1 - bit)) & 1 == 1
        below, above = tl.where(upper, middle, below), tl.where(upper, above, middle)
    return below


@jit
def _pick(values, index):
    """values [1,LANES] at an index."""
    lane = tl.arange(0, values.shape[1])[None, :]
    return tl.sum(tl.where(lane == index, values, 0))


@jit
def _search_kernel(
    links,  # [B,4,V]
    starts,  # [B,size]
    terms,  # [B,2,V]
    best,  # [B,HALVES,V,2^BITS]
    segments,  # [B,V,2^BITS]
    min_gain,  # [1]
    strengths,  # [B] in and out
    none,  # [B] out: whether not even the largest strength holds the budget
    max_tokens,
    lookahead,
    nodes,
    size,
    GREEDY: tl.constexpr,
    HALVES: tl.constexpr,
    BLOCK: tl.constexpr,
    BITS: tl.constexpr,
):
    """A program per image. Non-negative floats are ordered as their bits are, so [strength, largest] is halved until its
    ends are neighbours, the upper of which holds the budget.

    One turn up the levels counts at all the middles that may come in BITS halvings; its first lane, the lower end, is
    lent to the ends of the whole interval. A turn reads some 12 2^BITS bytes per node, from the cache.
    """
    LANES: tl.constexpr = 1 << BITS
    image, links, begins, levels, used = forest_of(links, starts, nodes, size)
    terms += image * 2 * nodes
    best += image * HALVES * nodes * LANES
    segments += image * nodes * LANES
    lane = tl.arange(0, LANES)[None, :]
    low = tl.load(strengths + image).to(tl.int32, bitcast=True)
    high = low * 0 + _LARGEST
    turn = 0
    searching = 1
    while searching == 1:
        bits = _middles(low, high, BITS)
        bits = tl.where((lane == 0) & (turn == 1), _LARGEST, bits)
        strength = bits.to(tl.float32, bitcast=True).to(tl.float64)
        if GREEDY:
            within = greedy_costs(links, used, levels, terms, best, nodes, strength, lookahead, BLOCK, LANES)
            greedy_segments(
                links, begins, levels, terms, within, segments, nodes, strength, tl.load(min_gain), BLOCK, LANES
            )
        else:
            optimal_costs(links, begins, levels, terms, best, segments, nodes, strength, BLOCK, LANES)
        roots = tl.where(levels > 0, tl.load(begins + 1), 0)
        count = tl.zeros([1, LANES], tl.int32)
        begin = 0
        while begin < roots:
            i, here = column(begin, roots, BLOCK)
            of_roots = tl.load(segments + wide(i) * LANES + lane, mask=here, other=0)
            count += tl.sum(of_roots, axis=0)[None, :]
            begin += BLOCK
        holds = (count <= max_tokens).to(tl.int32)
        end_holds = _pick(holds, 0)
        if (turn == 0) & (end_holds == 1):
            high = low
            searching = 0
        if (turn == 1) & (end_holds == 0):
            high = low * 0 + _LARGEST
            searching = 0
            tl.store(none + image, 1)
        if searching == 1:
            at = 0
            above = high
            for bit in tl.static_range(BITS):
                middle = at + (1 << (BITS - 1 - bit))
                middle_holds = _pick(holds, middle) == 1
                above = tl.where(middle_holds, _pick(bits, middle), above)
                at = tl.where(middle_holds, at, middle)
            low = tl.where(at == 0, low, _pick(bits, at))
            high = above
            searching = ((turn == 0) | (high - low > 1)).to(tl.int32)
        turn += 1
        tl.debug_barrier()
    tl.store(strengths + image, high.to(tl.float32, bitcast=True))


def search_strengths(
    levels: Levels,
    terms: Tensor,
    strengths: Tensor,
    none: Tensor,
    greedy: bool,
    max_tokens: int,
    lookahead: int,
    min_gain: Tensor,
) -> None:
    """Raises each image's strength to the least float32 whose cut has at most max_tokens segments.

    Sets `none` where there is no such, and then the largest strength.
    """
    batch, _, nodes = levels.links.shape
    lanes = min(max(next_power_of_2(MEMORY // max(nodes, 1)), 8), 128)
    halves = 2 if greedy else 1
    launch(
        _search_kernel,
        batch,
        strengths,
        *levels,
        terms,
        terms.new_empty(batch, halves, nodes, lanes),
        levels.links.new_empty(batch, nodes, lanes),
        min_gain,
        strengths,
        none,
        max_tokens,
        lookahead,
        nodes,
        levels.starts.shape[1],
        GREEDY=greedy,
        HALVES=halves,
        BLOCK=TILE // lanes,
        BITS=lanes.bit_length() - 1,
        warps=16,
    )
