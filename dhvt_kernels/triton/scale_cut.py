"""Cuts of a scale set: any number of strengths and budgets at once."""

import torch
from torch import Tensor

from ._checked import checked
from ._forest import children_at, column, forest_of, node_at, parent_at
from ._lanes import lanes
from ._language import cdiv, jit, tl
from ._launch import launch
from ._levels import BLOCK, find_levels
from ._math import wide
from ._numbering import number_segments

_NEVER = tl.constexpr(float("inf"))
_LARGEST_STRENGTH = tl.constexpr(torch.finfo(torch.float32).max)


@jit
def _births_kernel(
    links,  # [R,4,W]
    starts,  # [R,size]
    lower,  # [R,W]
    births,  # [R,W] out: from which strength on the leaves of the node at a position are in one segment
    entries,  # [R,W] in and out: the same of each inner node; infinite for others
    splits,  # [R,W] in and out: so many segments more has a cut that splits a node
    used_leaves,  # [B] in and out
    images,  # G
    leaves,
    nodes,
    width,
    size,
    BLOCK: tl.constexpr,
):
    """A program per forest, down the levels: the least `lower` above a node and of it. Some 40 bytes per node."""
    forest, links, begins, levels, _ = forest_of(links, starts, width, size)
    row = forest * width
    used_leaves += forest * images
    births += row
    level = 0
    while level < levels:
        end = tl.load(begins + level + 1)
        begin = tl.load(begins + level)
        while begin < end:
            i, here = column(begin, end, BLOCK)
            v, up = node_at(links, i, here), parent_at(links, width, i, here)
            first, last = children_at(links, width, i, here)
            own = tl.load(lower + row + v, mask=here, other=_NEVER)
            above = tl.load(births + up, mask=up >= 0, other=_NEVER)
            inner = v % nodes >= leaves
            birth = tl.where(inner, tl.where(own < above, own, above), 0.0)
            tl.store(births + i, birth, mask=here)
            tl.store(entries + row + v, birth, mask=here & inner)
            tl.store(splits + row + v, (last - first - 1).to(tl.int32), mask=here & inner)
            tl.atomic_add(used_leaves + v // nodes, 1, mask=here & ~inner, sem="relaxed")
            begin += BLOCK
        tl.debug_barrier()
        level += 1


@jit
def _gather_kernel(
    splits,  # [B,V]
    order,  # [B,V]
    sorted_splits,  # [B,V] out
    nodes,
    total,  # B V
    BLOCK: tl.constexpr,
):
    """A lane per node."""
    index, here = lanes(total, BLOCK)
    source = index - index % nodes + tl.load(order + index, mask=here, other=0)
    tl.store(sorted_splits + index, tl.load(splits + source, mask=here, other=0), mask=here)


@jit
def _strengths_kernel(
    least,  # [N]
    max_tokens,  # [N]
    entries,  # [B,V] in ascending order
    merged,  # [B,V] so many segments less than leaves has the cut from each on, in this image and those before
    used_leaves,  # [B]
    chosen,  # [N,B] out: infinite for the roots
    used,  # [N,B] out: the strength
    batch,
    nodes,
    total,  # N B
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A lane per cut, which looks for the first entry whose cut holds the budget: STEPS loads."""
    index, here = lanes(total, BLOCK)
    image = index % batch
    strength = tl.load(least + index // batch, mask=here, other=0)
    strength = tl.where(strength > 0, tl.where(strength < _LARGEST_STRENGTH, strength, _LARGEST_STRENGTH), 0.0)
    budget = tl.load(max_tokens + index // batch, mask=here, other=0)
    excess = tl.load(used_leaves + image, mask=here, other=0) - budget
    searching = here & (budget > 0) & (excess > 0)
    before = tl.load(merged + image * nodes - 1, mask=searching & (image > 0), other=0)
    low, high = image * 0, image * 0 + nodes
    for _ in tl.static_range(STEPS):
        middle = (low + high) // 2
        going = searching & (low < high)
        holds = tl.load(merged + image * nodes + middle, mask=going, other=0) - before >= excess
        high = tl.where(going & holds, middle, high)
        low = tl.where(going & ~holds, middle + 1, low)
    entry = tl.load(entries + image * nodes + low, mask=searching & (low < nodes), other=_NEVER)
    strength = tl.where(searching & (entry > strength), entry, strength)
    tl.store(chosen + index, strength, mask=here)
    tl.store(used + index, tl.where(strength < _LARGEST_STRENGTH, strength, _LARGEST_STRENGTH), mask=here)


@jit
def _owners_kernel(
    links,  # [R,4,W]
    starts,  # [R,size]
    births,  # [R,W] by position
    chosen,  # [N,B]
    owner,  # [N,B,L] out
    images,  # G
    leaves,
    nodes,
    width,
    size,
    forests,  # R
    total,  # N R W
    BLOCK: tl.constexpr,
):
    """A lane per cut and leaf, by its position, goes up while there is a segment; 8 bytes per step, from the cache."""
    index, here = lanes(total, BLOCK)
    i, forest = index % width, index // width % forests
    links += forest * 4 * width
    begins = starts + forest * size + 1
    levels = tl.load(begins - 1, mask=here, other=0)
    here = here & (i < tl.load(begins + levels, mask=here, other=0))
    v = tl.load(links + i, mask=here, other=0)
    here = here & (v % nodes < leaves)
    cut = index // width // forests * (wide(forests) * images) + forest * images + v // nodes
    strength = tl.load(chosen + cut, mask=here, other=0)
    up = tl.load(links + width + i, mask=here, other=-1)
    while tl.max(up) >= 0:
        born = (up >= 0) & (tl.load(births + forest * width + up, mask=up >= 0, other=0) <= strength)
        v = tl.where(born, tl.load(links + up, mask=born, other=0), v)
        up = tl.load(links + width + up, mask=born, other=-1)
    leaf = tl.load(links + i, mask=here, other=0) % nodes
    tl.store(owner + cut * leaves + leaf, v % nodes, mask=here)


@checked(
    parent="int32 B V",
    lower="float32 B V",
    round="int32 B V",
    strength="float32 N",
    max_tokens="int32 N",
    num_segments=0,
)
def scale_cut(
    lower: Tensor, parent: Tensor, round: Tensor, strength: Tensor, max_tokens: Tensor, num_segments: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Segment of each leaf, node of each segment, their number and the strength used, of N cuts of every image."""
    batch, nodes = parent.shape
    leaves, cuts = (nodes + 1) // 2, strength.shape[0]
    links, starts, images = find_levels(parent, round)
    forests, _, width = links.shape
    births = torch.empty_like(lower, memory_format=torch.contiguous_format)
    entries = lower.new_full((batch, nodes), float("inf"))
    splits, used_leaves = parent.new_zeros(batch, nodes), parent.new_zeros(batch)
    launch(
        _births_kernel,
        forests,
        parent,
        links,
        starts,
        lower.contiguous(),
        births,
        entries,
        splits,
        used_leaves,
        images,
        leaves,
        nodes,
        width,
        starts.shape[1],
        BLOCK=BLOCK,
    )
    # A node that enters a cut takes the place of its children, which are in it: one budget is met from one entry on.
    entries, order = torch.sort(entries, dim=1, stable=True)
    sorted_splits = torch.empty_like(splits)
    launch(
        _gather_kernel,
        cdiv(batch * nodes, BLOCK),
        parent,
        splits,
        order,
        sorted_splits,
        nodes,
        batch * nodes,
        BLOCK=BLOCK,
    )
    merged = sorted_splits.flatten().cumsum(0, dtype=torch.int32)  # of all: torch sums a row with one block of threads
    used = lower.new_empty(cuts, batch)
    chosen = torch.empty_like(used)
    launch(
        _strengths_kernel,
        cdiv(cuts * batch, BLOCK),
        parent,
        strength.contiguous(),
        max_tokens.contiguous(),
        entries,
        merged,
        used_leaves,
        chosen,
        used,
        batch,
        nodes,
        cuts * batch,
        STEPS=nodes.bit_length(),
        BLOCK=BLOCK,
    )
    owner = parent.new_full((cuts * batch, leaves), -1)
    launch(
        _owners_kernel,
        cdiv(cuts * batch * nodes, BLOCK),
        parent,
        links,
        starts,
        births,
        chosen,
        owner,
        images,
        leaves,
        nodes,
        width,
        starts.shape[1],
        forests,
        cuts * batch * nodes,
        BLOCK=BLOCK,
    )
    segment, node, counts = number_segments(owner, nodes, num_segments)
    shape = cuts, batch
    return segment.view(*shape, leaves), node.view(*shape, num_segments), counts.view(shape), used
