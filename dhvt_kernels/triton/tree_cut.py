"""The cut of least cost through a tree, its budget, and the probabilities of the relaxed cut with their gradients."""

import torch
from torch import Tensor

from ..ops.tree_cut import SELECTIONS
from ._checked import checked, require
from ._cut_costs import cost_at, greedy_costs, optimal_costs
from ._cut_search import search_strengths
from ._forest import children_at, column, finite_terms, forest_of, is_finite, node_at, parent_at, sum_children
from ._language import jit, tl
from ._launch import launch
from ._levels import BLOCK, find_levels
from ._math import wide
from ._numbering import number_segments


@jit
def _shares(gap, is_leaf):
    """1 / (1 + exp(-gap)) and 1 / (1 + exp(gap)), without overflow: what splits and what stays; leaves stay."""
    e = tl.exp(-tl.abs(gap))
    large, small = 1 / (1 + e), e / (1 + e)
    split, stays = tl.where(gap < 0, small, large), tl.where(gap < 0, large, small)
    return tl.where(is_leaf, 0.0, split), tl.where(is_leaf, 1.0, stays)


@jit
def _cut_kernel(
    links,  # [R,4,W]
    starts,  # [R,size]
    terms,  # [R,2,W]
    strengths,  # [B]
    none,  # [B] whether the roots are the cut
    min_gain,  # [1]
    temperature,  # [1]
    costs,  # [R,ROWS,W] scratch: least costs; probability that a node and all above it split; greedy costs
    tops,  # [R,W] scratch: position of the node of the cut that is above a node or is it, -1 for none
    owner,  # [B,L] out: that node of each leaf
    probability,  # [B,V] out
    lookahead,
    images,
    leaves,
    nodes,
    width,
    size,
    GREEDY: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program per forest: up the levels for the costs, and down for what reaches a node. Some 150 bytes per node."""
    forest, links, begins, levels, used = forest_of(links, starts, width, size)
    terms += forest * 2 * width
    best = costs + forest * ROWS * width
    reach = best + width
    tops += forest * width
    strengths += forest * images
    none += forest * images
    owner += forest * images * leaves
    probability += forest * width
    optimal_costs(links, begins, levels, terms, best, tops, strengths, nodes, width, BLOCK, 1)  # counts are not needed
    if GREEDY:
        within = greedy_costs(links, used, levels, terms, reach + width, strengths, nodes, width, lookahead, BLOCK, 1)
    level = 0
    while level < levels:
        end = tl.load(begins + level + 1)
        begin = tl.load(begins + level)
        while begin < end:
            i, here = column(begin, end, BLOCK)
            v, up = node_at(links, i, here), parent_at(links, width, i, here)
            first, last = children_at(links, width, i, here)
            cost = cost_at(links, terms, strengths, nodes, width, i, here, 1)
            below = sum_children(best, first, last, 1)
            splits = below < cost
            if GREEDY:
                splits = cost - sum_children(within, first, last, 1) > tl.load(min_gain)
            image, leaf = v // nodes, v % nodes
            splits = splits & (first < last) & (tl.load(none + image) == 0)
            top = tl.load(tops + up, mask=up >= 0, other=-1)
            top = tl.where((top < 0) & ~splits, i.to(tl.int32), top)
            tl.store(tops + i, top, mask=here)
            top_node = node_at(links, top, top >= 0) % nodes
            tl.store(owner + wide(image) * leaves + leaf, top_node, mask=here & (leaf < leaves))
            split, stays = _shares((cost - below) / tl.load(temperature), first == last)
            reached = tl.load(reach + up, mask=up >= 0, other=1)
            tl.store(reach + i, reached * split, mask=here)
            tl.store(probability + v, reached * stays, mask=here)
            begin += BLOCK
        tl.debug_barrier()
        level += 1


@checked(
    parent="int32 B V",
    likelihood="accumulated B V",
    penalty="same B V",
    round="int32 B V",
    select=SELECTIONS,
)
def tree_cut(
    likelihood: Tensor,
    penalty: Tensor,
    parent: Tensor,
    round: Tensor,
    select: str,
    strength: float,
    max_tokens: int,
    lookahead: int,
    min_gain: float,
    selection_temperature: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Segment of each leaf, node of each segment, their number, the strength used, relaxed probability of each node."""
    require(
        0 <= strength <= torch.finfo(torch.float32).max, f"strength: expected a float32 number >= 0; found {strength}"
    )
    batch, nodes = parent.shape
    leaves = (nodes + 1) // 2
    greedy = select == "greedy"
    levels = find_levels(parent, round)
    terms = finite_terms(levels, likelihood, penalty)
    strengths = likelihood.new_full((batch,), strength, dtype=torch.float32)
    strengths += 0.0  # turns -0 into 0
    none = parent.new_zeros(batch)
    least_gain = terms.new_full((1,), min_gain)
    if max_tokens > 0:
        search_strengths(levels, terms, strengths, none, greedy, max_tokens, lookahead, least_gain)
    links, starts, images = levels
    forests, _, width = links.shape
    rows = 4 if greedy else 2
    owner = parent.new_full((batch, leaves), -1)
    probability = likelihood.new_zeros(batch, nodes)
    launch(
        _cut_kernel,
        forests,
        parent,
        links,
        starts,
        terms,
        strengths,
        none,
        least_gain,
        terms.new_full((1,), selection_temperature),
        terms.new_empty(forests, rows, width),
        parent.new_empty(batch, nodes),
        owner,
        probability,
        lookahead,
        images,
        leaves,
        nodes,
        width,
        starts.shape[1],
        GREEDY=greedy,
        ROWS=rows,
        BLOCK=BLOCK,
    )
    return *number_segments(owner, nodes, leaves), strengths, probability


@jit
def _backward_kernel(
    links,  # [R,4,W]
    starts,  # [R,size]
    terms,  # [R,2,W]
    strengths,  # [B]
    temperature,  # [1]
    grad_probability,  # [B,V]
    likelihood,  # [B,V]
    scratch,  # [R,4,W]
    kept,  # [R,W] scratch
    grad_likelihood,  # [B,V] out
    grad_penalty,  # [B,V] out
    images,
    nodes,
    width,
    size,
    BLOCK: tl.constexpr,
):
    """A program per forest, twice up the levels and twice down. Some 300 bytes per node.

    Up for the costs; down for `reach`, the probability that all above a node split; up for the derivatives to that and
    to the gap; and down for those to best(v), which go by its argmin.
    """
    forest, links, begins, levels, _ = forest_of(links, starts, width, size)
    row = forest * width
    terms += 2 * row
    kept += row
    best = scratch + 4 * row
    reach, split, stays = best + width, best + 2 * wide(width), best + 3 * wide(width)
    strengths += forest * images
    optimal_costs(links, begins, levels, terms, best, kept, strengths, nodes, width, BLOCK, 1)  # counts are not needed
    level = 0
    while level < levels:
        end = tl.load(begins + level + 1)
        begin = tl.load(begins + level)
        while begin < end:
            i, here = column(begin, end, BLOCK)
            up = parent_at(links, width, i, here)
            first, last = children_at(links, width, i, here)
            cost = cost_at(links, terms, strengths, nodes, width, i, here, 1)
            below = sum_children(best, first, last, 1)
            splits, remains = _shares((cost - below) / tl.load(temperature), first == last)
            tl.store(kept + i, ((first == last) | ~(below < cost)).to(tl.int32), mask=here)
            tl.store(split + i, splits, mask=here)
            tl.store(stays + i, remains, mask=here)
            reached = tl.load(reach + up, mask=up >= 0, other=1) * tl.load(split + up, mask=up >= 0, other=1)
            tl.store(reach + i, reached, mask=here)
            begin += BLOCK
        tl.debug_barrier()
        level += 1
    of_reach, of_gap = best, reach  # derivatives, in the place of what is not needed any more
    level = levels - 1
    while level >= 0:
        end = tl.load(begins + level + 1)
        begin = tl.load(begins + level)
        while begin < end:
            i, here = column(begin, end, BLOCK)
            first, last = children_at(links, width, i, here)
            v = node_at(links, i, here)
            grad = tl.load(grad_probability + row + v, mask=here, other=0).to(tl.float64)
            inner = sum_children(of_reach, first, last, 1)
            splits, remains = tl.load(split + i, mask=here, other=0), tl.load(stays + i, mask=here, other=0)
            reached = tl.load(reach + i, mask=here, other=0)
            tl.store(of_reach + i, grad * remains + splits * inner, mask=here)
            tl.store(of_gap + i, reached * (grad - inner) * remains * splits / tl.load(temperature), mask=here)
            begin += BLOCK
        tl.debug_barrier()
        level -= 1
    of_children = best  # derivative to best() of a node's children
    level = 0
    while level < levels:
        end = tl.load(begins + level + 1)
        begin = tl.load(begins + level)
        while begin < end:
            i, here = column(begin, end, BLOCK)
            v, up = node_at(links, i, here), parent_at(links, width, i, here)
            of_best = tl.load(of_children + up, mask=up >= 0, other=0)
            gap = tl.load(of_gap + i, mask=here, other=0)
            is_kept = tl.load(kept + i, mask=here, other=0) != 0
            tl.store(of_children + i, tl.where(is_kept, gap, gap + of_best), mask=here)
            of_cost = tl.where(is_kept, of_best, 0.0) - gap
            given = tl.load(likelihood + row + v, mask=here, other=0)
            tl.store(grad_likelihood + row + v, tl.where(is_finite(given), of_cost, 0.0), mask=here)
            strength = tl.load(strengths + v // nodes).to(tl.float64)
            tl.store(grad_penalty + row + v, strength * of_cost, mask=here)
            begin += BLOCK
        tl.debug_barrier()
        level += 1


@checked(
    parent="int32 B V",
    grad_probability="same B V",
    likelihood="accumulated B V",
    penalty="same B V",
    round="int32 B V",
    strength="float32 B",
)
def tree_cut_backward(
    grad_probability: Tensor,
    likelihood: Tensor,
    penalty: Tensor,
    parent: Tensor,
    round: Tensor,
    strength: Tensor,
    selection_temperature: float,
) -> tuple[Tensor, Tensor]:
    """Derivatives of sum_v grad_v P_v; the strength is a constant."""
    batch, nodes = parent.shape
    levels = find_levels(parent, round)
    terms = finite_terms(levels, likelihood, penalty)
    links, starts, images = levels
    forests, _, width = links.shape
    grad_likelihood = likelihood.new_zeros(batch, nodes)
    grad_penalty = torch.zeros_like(grad_likelihood)
    launch(
        _backward_kernel,
        forests,
        parent,
        links,
        starts,
        terms,
        strength.contiguous(),
        terms.new_full((1,), selection_temperature),
        grad_probability.contiguous(),
        likelihood.contiguous(),
        terms.new_empty(forests, 4, width),
        parent.new_empty(batch, nodes),
        grad_likelihood,
        grad_penalty,
        images,
        nodes,
        width,
        starts.shape[1],
        BLOCK=BLOCK,
    )
    return grad_likelihood, grad_penalty
