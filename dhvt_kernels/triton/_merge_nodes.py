"""The nodes of merge trees: how a node is stored, and the new nodes of a chain of merges."""

from typing import NamedTuple

import torch
from torch import Tensor

from ._language import jit, tl
from ._math import divide
from ._merge_picks import lanes


class Nodes(NamedTuple):
    """What the operators that merge return."""

    parent: Tensor  # [B,V]
    round: Tensor  # [B,V]
    count: Tensor  # [B,V]
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
    """First merge of a chain and past its last one, the node that the first adds to, its image; and what is to be added
    to the number of a merge for the row of the node that it makes."""
    p, past = tl.load(begin + chain, mask=here, other=0), tl.load(end + chain, mask=here, other=0)
    here = p < past
    whole = tl.load(other + chain, mask=here, other=0)
    image = whole // nodes
    rows = tl.load(created + image, mask=here, other=0) - tl.load(stop + image, mask=here, other=0)
    return p, past, whole, image, rows


@jit
def join_features_kernel(
    single,  # [N]
    begin,  # [K]
    end,  # [K]
    other,  # [K]
    created,  # [B]
    stop,  # [B]
    count,  # [B V]
    mean,  # [B V,C]
    m2,  # [B V,C]
    size,  # K C
    nodes,  # V
    channels,
    BLOCK: tl.constexpr,
):
    """A lane per chain and channel goes along its merges. Reads and writes 8 C bytes of a node in float32.

    A node's features are those of the lower child, joined by the higher one (Chan, Golub and LeVeque, 1979).
    """
    i, here = lanes(size, BLOCK)
    chain, c = i // channels, i % channels
    p, past, whole, _, rows = _load_chain(begin, end, other, created, stop, chain, here, nodes)
    acc = mean.dtype.element_ty
    going = p < past
    n_b = tl.load(count + whole, mask=going, other=0)
    mean_b = tl.load(mean + whole * channels + c, mask=going, other=0)
    m2_b = tl.load(m2 + whole * channels + c, mask=going, other=0)
    while tl.max((p < past).to(tl.int32)) > 0:
        going = p < past
        a = tl.load(single + p, mask=going, other=0)
        n_a = tl.load(count + a, mask=going, other=1)
        mean_a = tl.load(mean + a * channels + c, mask=going, other=0)
        m2_a = tl.load(m2 + a * channels + c, mask=going, other=0)
        n = n_a.to(acc) + n_b.to(acc)
        share = tl.where(n > 0, divide(n_b.to(acc), n), 0)
        delta = mean_b - mean_a
        mean_b = mean_a + delta * share
        m2_b = m2_a + (m2_b + delta * n_a.to(acc) * share * delta)
        n_b += n_a
        out = (rows + p) * channels + c
        tl.store(mean + out, mean_b, mask=going)
        tl.store(m2 + out, m2_b, mask=going)
        p += 1


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
    centroid,  # [B V,2]
    box,  # [B V,4]
    boundary,  # [B V]
    next_node,  # [K] the node that each chain becomes
    size,  # K
    nodes,  # V
    number,  # of the round
    BLOCK: tl.constexpr,
):
    """A lane per chain goes along its merges: all but the features. Reads 36 bytes of a node, writes 40."""
    chain, here = lanes(size, BLOCK)
    p, past, whole, image, rows = _load_chain(begin, end, other, created, stop, chain, here, nodes)
    acc = centroid.dtype.element_ty
    pair, four = tl.arange(0, 2)[None, :], tl.arange(0, 4)[None, :]
    going = p < past
    tl.store(next_node + chain, rows + past - 1, mask=going)
    n_b = tl.load(count + whole, mask=going, other=0)
    boundary_b = tl.load(boundary + whole, mask=going, other=0)
    centroid_b = tl.load(centroid + 2 * whole[:, None] + pair, mask=going[:, None], other=0)
    box_b = tl.load(box + 4 * whole[:, None] + four, mask=going[:, None], other=0)
    while tl.max((p < past).to(tl.int32)) > 0:
        going = p < past
        merged = rows + p
        a = tl.load(single + p, mask=going, other=0)
        n_a = tl.load(count + a, mask=going, other=1)
        tl.store(parent + a, (merged - image * nodes).to(tl.int32), mask=going)
        tl.store(parent + whole, (merged - image * nodes).to(tl.int32), mask=going)
        share = divide(n_b.to(acc), n_a.to(acc) + n_b.to(acc))
        centroid_a = tl.load(centroid + 2 * a[:, None] + pair, mask=going[:, None], other=0)
        centroid_b = centroid_a + (centroid_b - centroid_a) * share[:, None]
        box_a = tl.load(box + 4 * a[:, None] + four, mask=going[:, None], other=0)
        box_b = tl.where(four < 2, tl.minimum(box_a, box_b), tl.maximum(box_a, box_b))
        boundary_a = tl.load(boundary + a, mask=going, other=0)
        boundary_b += boundary_a - 2 * tl.load(inner + p, mask=going, other=0)
        n_b += n_a
        tl.store(round + merged, tl.cast(number, tl.int32), mask=going)
        tl.store(count + merged, n_b, mask=going)
        tl.store(boundary + merged, boundary_b, mask=going)
        tl.store(centroid + 2 * merged[:, None] + pair, centroid_b, mask=going[:, None])
        tl.store(box + 4 * merged[:, None] + four, box_b, mask=going[:, None])
        whole = merged
        p += 1
