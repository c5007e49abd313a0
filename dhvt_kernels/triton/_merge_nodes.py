"""The nodes of merge trees: how a node is stored, and the new nodes of a chain of merges."""

from typing import NamedTuple

import torch
from torch import Tensor

from ._lanes import lanes
from ._language import jit, tl
from ._math import divide


class Nodes(NamedTuple):
    """What the operators that merge return."""

    parent: Tensor  # [B,V]
    round: Tensor  # [B,V]
    count: Tensor  # type: ignore[assignment]  # [B,V]
    mean: Tensor  # [B,V,C]
    m2: Tensor  # [B,V,C]
    centroid: Tensor  # [B,V,2]
    box: Tensor  # [B,V,4]
    boundary: Tensor  # [B,V]


def empty_nodes(batch: int, leaves: int, channels: int, dtype: torch.dtype, like: Tensor) -> Nodes:
    """Nodes that are not written yet."""
    nodes = max(2 * leaves - 1, 0)

    def empty(dtype: torch.dtype, *size: int) -> Tensor:
        return like.new_empty(batch, nodes, *size, dtype=dtype)

    integer = torch.int32
    return Nodes(
        empty(integer),
        empty(integer),
        empty(integer),
        empty(dtype, channels),
        empty(dtype, channels),
        empty(dtype, 2),
        empty(integer, 4),
        empty(integer),
    )


@jit
def store_leaf(
    parent, round, count, centroid, box, boundary, row, here, used, own_count, own_centroid, own_box, own_boundary
):
    """All but the features of a leaf, or of an unused node: `used` says which, `here` whether there is a node."""
    tl.store(parent + row, tl.full(row.shape, -1, tl.int32), mask=here)
    tl.store(round + row, tl.where(used, 0, -1).to(tl.int32), mask=here)
    tl.store(count + row, tl.where(used, own_count, 0), mask=here)
    tl.store(boundary + row, tl.where(used, own_boundary, 0), mask=here)
    pair, four = tl.arange(0, 2)[None, :], tl.arange(0, 4)[None, :]
    row, here, used = row[:, None], here[:, None], used[:, None]
    tl.store(centroid + 2 * row + pair, tl.where(used, own_centroid, 0), mask=here)
    tl.store(box + 4 * row + four, tl.where(used, own_box, tl.where(four < 2, 0, -1)), mask=here)


@jit
def _load_chain(begin, end, other, created, stop, chain, here, nodes):
    """Of chains: the first merge, the number of merges, the node that the first adds to, and what is to be added to the
    number of a merge for the row of the node that it makes."""
    p, past = tl.load(begin + chain, mask=here, other=0), tl.load(end + chain, mask=here, other=0)
    whole = tl.load(other + chain, mask=p < past, other=0)
    image = whole // nodes
    rows = tl.load(created + image, mask=p < past, other=0) - tl.load(stop + image, mask=p < past, other=0)
    return p, past - p, whole, rows


@jit
def join_kernel(
    single,  # [N]
    begin,  # [K]
    end,  # [K]
    other,  # [K]
    created,  # [B]
    stop,  # [B]
    inner,  # [N]
    parent,  # [B V]
    round,  # [B V]
    count,  # [B V]
    box,  # [B V,4]
    boundary,  # [B V]
    share,  # [N] of the node that is added to, in what a merge makes
    next_node,  # [K] the node that each chain becomes
    size,  # K
    nodes,  # V
    number,  # of the round
    BLOCK: tl.constexpr,
):
    """A lane per chain goes along its merges: whole numbers. Reads 36 bytes of a node, and writes 32."""
    chain, here = lanes(size, BLOCK)
    p, merges, whole, rows = _load_chain(begin, end, other, created, stop, chain, here, nodes)
    acc = share.dtype.element_ty
    four = tl.arange(0, 4)[None, :]
    here = merges > 0
    first = whole // nodes * nodes
    n_b = tl.load(count + whole, mask=here, other=0)
    boundary_b = tl.load(boundary + whole, mask=here, other=0)
    box_b = tl.load(box + 4 * whole[:, None] + four, mask=here[:, None], other=0)
    tl.store(next_node + chain, rows + p + merges - 1, mask=here)
    longest, step = tl.max(merges), 0
    while step < longest:
        here = step < merges
        merged = rows + p
        a = tl.load(single + p, mask=here)
        tl.store(parent + a, merged - first, mask=here)
        tl.store(parent + whole, merged - first, mask=here)
        n_a = tl.load(count + a, mask=here, other=1)
        n = n_a.to(acc) + n_b.to(acc)
        tl.store(share + p, divide(n_b.to(acc), n), mask=here)
        n_b += n_a
        boundary_b += tl.load(boundary + a, mask=here) - 2 * tl.load(inner + p, mask=here)
        box_a = tl.load(box + 4 * a[:, None] + four, mask=here[:, None])
        box_b = tl.where(four < 2, tl.minimum(box_a, box_b), tl.maximum(box_a, box_b))
        tl.store(round + merged, number, mask=here)
        tl.store(count + merged, n_b, mask=here)
        tl.store(boundary + merged, boundary_b, mask=here)
        tl.store(box + 4 * merged[:, None] + four, box_b, mask=here[:, None])
        whole = merged
        p += 1
        step += 1


@jit
def join_means_kernel(
    single,  # [N]
    begin,  # [K]
    end,  # [K]
    other,  # [K]
    created,  # [B]
    stop,  # [B]
    share,  # [N]
    count,  # [B V]
    mean,  # [B V,C]
    m2,  # [B V,C] or None
    size,  # K C
    nodes,  # V
    channels,
    BLOCK: tl.constexpr,
):
    """A lane per chain and channel goes along its merges. Reads 12 + 8 C bytes of a node in float32, and writes 8 C.

    A node has what the lower child has, joined by the higher one (Chan, Golub and LeVeque, 1979).
    """
    i, here = lanes(size, BLOCK)
    c = i % channels
    p, merges, whole, rows = _load_chain(begin, end, other, created, stop, i // channels, here, nodes)
    here = merges > 0
    at = whole * channels + c
    mean_b = tl.load(mean + at, mask=here)
    if m2 is not None:
        m2_b = tl.load(m2 + at, mask=here)
    out = (rows + p) * channels + c
    longest, step = tl.max(merges), 0
    while step < longest:
        here = step < merges
        a = tl.load(single + p, mask=here)
        at = a * channels + c
        part = tl.load(share + p, mask=here)
        mean_a = tl.load(mean + at, mask=here)
        delta = mean_b - mean_a
        mean_b = mean_a + delta * part
        tl.store(mean + out, mean_b, mask=here)
        if m2 is not None:
            n_a = tl.load(count + a, mask=here).to(delta.dtype)
            m2_b = tl.load(m2 + at, mask=here) + (m2_b + delta * n_a * part * delta)
            tl.store(m2 + out, m2_b, mask=here)
        out += channels
        p += 1
        step += 1
