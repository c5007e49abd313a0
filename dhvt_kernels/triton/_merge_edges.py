"""The edges of a round's graph: each once, sorted by its ends."""

import torch
from torch import Tensor

from ._lanes import BLOCK, lanes
from ._language import cdiv, jit, tl
from ._launch import launch

#: An edge that is none.
NO_EDGE = tl.constexpr(2**63 - 1)


@jit
def pack_edge(u, v):
    """Two vertices as an edge."""
    return (tl.minimum(u, v).to(tl.int64) << 32) | tl.maximum(u, v)


@jit
def load_edge(edges, index, here):
    """The lower and the higher end of edges, and which of them are edges."""
    edge = tl.load(edges + index, mask=here, other=NO_EDGE)
    return edge >> 32, edge & 0xFFFFFFFF, edge != NO_EDGE


@jit
def contract_kernel(
    edges,  # [M]
    lengths,  # [M]
    chain,  # [N]
    added,  # [N]
    inner,  # [N] 0; length of the boundary that a merge makes an inner one, modulo 2^32
    contracted,  # [M] the edges between chains
    size,  # M
    BLOCK: tl.constexpr,
):
    """A lane per edge: it joins two chains, or its ends meet in the later one of the merges that added them."""
    e, here = lanes(size, BLOCK)
    u, v, edge = load_edge(edges, e, here)
    of_u, of_v = tl.load(chain + u, mask=edge, other=0), tl.load(chain + v, mask=edge, other=0)
    same = edge & (of_u == of_v)
    merge = tl.maximum(tl.load(added + u, mask=same, other=0), tl.load(added + v, mask=same, other=0))
    length = tl.load(lengths + e, mask=same, other=0)
    tl.atomic_add(inner + merge, length.to(tl.int32), mask=same, sem="relaxed")
    tl.store(contracted + e, tl.where(edge & (of_u != of_v), pack_edge(of_u, of_v), NO_EDGE), mask=here)


@jit
def _load_first(edges, i, here):
    """Sorted edges, and which of them are the first of parallel ones."""
    edge = tl.load(edges + i, mask=here, other=NO_EDGE)
    return edge, (edge != NO_EDGE) & (edge != tl.load(edges + i - 1, mask=here & (i > 0), other=-1))


@jit
def _first_kernel(
    edges,  # [M] sorted
    first,  # [M] 0 or 1
    size,  # M
    BLOCK: tl.constexpr,
):
    """A lane per edge."""
    i, here = lanes(size, BLOCK)
    _, is_first = _load_first(edges, i, here)
    tl.store(first + i, is_first.to(tl.int32), mask=here)


@jit
def _sum_kernel(
    edges,  # [M] sorted
    order,  # [M] their places before
    lengths,  # [M] before
    number,  # [M] of firsts up to each
    unique,  # [M'] NO_EDGE
    sums,  # [M'] 0
    size,  # M
    BLOCK: tl.constexpr,
):
    """A lane per edge adds its length to that of the first of its parallels, which is stored."""
    i, here = lanes(size, BLOCK)
    edge, first = _load_first(edges, i, here)
    place = tl.load(number + i, mask=here, other=1) - 1
    tl.store(unique + place, edge, mask=first)
    length = tl.load(lengths + tl.load(order + i, mask=here, other=0), mask=edge != NO_EDGE, other=0)
    tl.atomic_add(sums + place, length, mask=edge != NO_EDGE, sem="relaxed")


def unique_edges(edges: Tensor, lengths: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Sorted edges of which there are no parallel ones, `most` at most, and the sums of their lengths."""
    edges, order = torch.sort(edges)
    first = torch.empty_like(edges, dtype=torch.int32)
    programs = cdiv(len(edges), BLOCK)
    launch(_first_kernel, programs, edges, edges, first, len(edges), BLOCK=BLOCK)
    number = torch.cumsum(first, 0, dtype=torch.int32)
    unique, sums = edges.new_full((most,), NO_EDGE.value), edges.new_zeros(most)
    launch(_sum_kernel, programs, edges, edges, order, lengths, number, unique, sums, len(edges), BLOCK=BLOCK)
    return unique, sums
