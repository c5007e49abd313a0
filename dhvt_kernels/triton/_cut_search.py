"""The least strength whose cut holds a budget, from the numbers of segments at several strengths at a time."""

from torch import Tensor

from ._cut_costs import greedy_costs, greedy_segments, optimal_costs
from ._forest import column, forest_of, node_at
from ._language import jit, next_power_of_2, tl
from ._launch import launch
from ._levels import Levels

#: Numbers that a program holds at a time, nodes times strengths; and what it keeps in memory of a forest, about.
TILE = 4096
MEMORY = 2**17
_LARGEST = tl.constexpr(0x7F7FFFFF)  # the bits of the largest float32


@jit
def _middles(low, high, BITS: tl.constexpr):
    """`low`, then all the middles that may come in BITS halvings, in ascending order: [GROUP,2^BITS] from [GROUP,1]."""
    lane = tl.arange(0, 1 << BITS)[None, :]
    below, above = low + lane * 0, high + lane * 0
    for bit in tl.static_range(BITS):
        middle = below + (above - below) // 2
        upper = (lane >> (BITS - 1 - bit)) & 1 == 1
        below, above = tl.where(upper, middle, below), tl.where(upper, above, middle)
    return below


@jit
def _pick(values, index):
    """values [GROUP,LANES] at index [GROUP,1]."""
    lane = tl.arange(0, values.shape[1])[None, :]
    return tl.sum(tl.where(lane == index, values, 0), axis=1)[:, None]


@jit
def _search_kernel(
    links,  # [R,4,W]
    starts,  # [R,size]
    terms,  # [R,2,W]
    best,  # [R,HALVES,W,LANES] scratch
    totals,  # [R,W,LANES] scratch
    tries,  # [R,G,LANES] scratch: strengths
    counts,  # [R,G,LANES] scratch: segments of the cut at each
    min_gain,  # [1]
    strengths,  # [B] in and out
    none,  # [B] out: whether not even the largest strength holds the budget
    max_tokens,
    lookahead,
    images,  # G
    nodes,
    width,
    size,
    GREEDY: tl.constexpr,
    HALVES: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    BITS: tl.constexpr,
):
    """A program per forest. Some 12 LANES bytes per node and turn, from the cache.

    Non-negative floats are ordered as their bits are, so [strength, largest] is halved until its ends are neighbours,
    the upper of which holds the budget. One turn up the levels counts at all the middles that may come in BITS
    halvings; its first lane, the lower end, is lent to the ends of the whole interval.
    """
    LANES: tl.constexpr = 1 << BITS
    forest, links, begins, levels, used = forest_of(links, starts, width, size)
    terms += forest * 2 * width
    best += forest * HALVES * width * LANES
    totals += forest * width * LANES
    lane = tl.arange(0, LANES)[None, :]
    image = tl.arange(0, GROUP)[:, None]
    there = image < images
    strengths += forest * images
    none += forest * images
    tries += forest * images * LANES
    counts += forest * images * LANES
    roots = tl.where(levels > 0, tl.load(begins + 1), 0)
    low = tl.load(strengths + image, mask=there, other=0).to(tl.int32, bitcast=True)
    high = low * 0 + _LARGEST
    searching = there
    turn = 0
    while tl.max(searching.to(tl.int32)) == 1:
        bits = _middles(low, high, BITS)
        bits = tl.where((lane == 0) & (turn == 1), _LARGEST, bits)
        tl.store(tries + image * LANES + lane, bits.to(tl.float32, bitcast=True), mask=there)
        tl.store(counts + image * LANES + lane, lane * 0, mask=there)
        tl.debug_barrier()
        if GREEDY:
            within = greedy_costs(links, used, levels, terms, best, tries, nodes, width, lookahead, BLOCK, LANES)
            greedy_segments(
                links, begins, levels, terms, within, totals, tries, nodes, width, tl.load(min_gain), BLOCK, LANES
            )
        else:
            optimal_costs(links, begins, levels, terms, best, totals, tries, nodes, width, BLOCK, LANES)
        begin = 0
        while begin < roots:
            i, here = column(begin, roots, BLOCK)
            of = node_at(links, i, here) // nodes
            of_root = tl.load(totals + i * LANES + lane, mask=here, other=0)
            tl.atomic_add(counts + of * LANES + lane, of_root, mask=here & (lane >= 0), sem="relaxed")
            begin += BLOCK
        tl.debug_barrier()
        found = tl.load(counts + image * LANES + lane, mask=there, other=0)
        holds = (found <= max_tokens).to(tl.int32)
        end_holds = _pick(holds, 0) == 1
        enough = searching & (turn == 0) & end_holds
        failed = searching & (turn == 1) & ~end_holds
        tl.store(none + image, 1, mask=failed)
        searching = searching & ~enough & ~failed
        at, end = low * 0, low * 0 + LANES
        for bit in tl.static_range(BITS):
            middle = at + (1 << (BITS - 1 - bit))
            middle_holds = _pick(holds, middle) == 1
            at, end = tl.where(middle_holds, at, middle), tl.where(middle_holds, middle, end)
        below = tl.where(at == 0, low, _pick(bits, at))
        above = tl.where(end == LANES, high, _pick(bits, end))
        high = tl.where(enough, low, tl.where(failed, _LARGEST, tl.where(searching, above, high)))
        low = tl.where(searching, below, low)
        searching = searching & ((turn == 0) | (high - low > 1))
        turn += 1
        tl.debug_barrier()
    tl.store(strengths + image, high.to(tl.float32, bitcast=True), mask=there)


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
    links, starts, images = levels
    rows, _, width = links.shape
    lanes = min(max(next_power_of_2(MEMORY // max(width, 1)), 8), 128)
    halves = 2 if greedy else 1
    launch(
        _search_kernel,
        rows,
        strengths,
        links,
        starts,
        terms,
        terms.new_empty(rows, halves, width, lanes),
        links.new_empty(rows, width, lanes),
        strengths.new_empty(rows, images, lanes),
        links.new_empty(rows, images, lanes),
        min_gain,
        strengths,
        none,
        max_tokens,
        lookahead,
        images,
        width // images,
        width,
        starts.shape[1],
        GREEDY=greedy,
        HALVES=halves,
        GROUP=next_power_of_2(images),
        BLOCK=TILE // lanes,
        BITS=lanes.bit_length() - 1,
        warps=16,
    )
