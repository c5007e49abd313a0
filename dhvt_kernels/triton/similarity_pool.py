"""Means up a tree, weighted by size times similarity, and their gradients down it."""

import torch
from torch import Tensor

from ._language import cdiv, jit, next_power_of_2, tl
from ._launch import launch
from ._merge_picks import lanes
from ._tree import family

BLOCK = 1024
#: Numbers of a tile [nodes, channels] of the program that goes along an image's levels, with 16 warps.
TILE, MOST_CHANNELS = 4096, 64


@jit
def _start_kernel(
    values,  # of leaves [B,L,C], or of nodes [B,V,C]
    round,  # [B,V]
    out,  # [B,V,C]
    size,  # B V C
    nodes,  # V
    given,  # values are those of so many nodes
    channels,
    BLOCK: tl.constexpr,
):
    """A lane per node and channel: what is given, but 0 for unused leaves and for nodes of which nothing is."""
    i, here = lanes(size, BLOCK)
    row, c = i // channels, i % channels
    v, leaves = row % nodes, (nodes + 1) // 2
    used = here & (v < given) & ((v >= leaves) | (tl.load(round + row, mask=here, other=-1) >= 0))
    source = (row // nodes * given + v) * channels + c
    tl.store(out + i, tl.load(values + source, mask=used, other=0), mask=here)


@jit
def _merges(order, low, high, place, past, first, leaves):
    """Inner nodes at places of the order, which of them have two children, and the rows of all three.

    order, low and high are those of the image, of which `first` is the first row.
    """
    here = place < past
    i = tl.load(order + place, mask=here, other=0)
    a, b = tl.load(low + i, mask=here, other=-1), tl.load(high + i, mask=here, other=-1)
    return i, first + leaves + i, first + a, first + b, here & (a >= 0)


@jit
def _starts(round, child, row, here, first, leaves):
    """Whether a child was there before the round that merged it: such a node's weight starts with its size."""
    before = tl.load(round + child, mask=here, other=0) < tl.load(round + row, mask=here, other=0)
    return here & ((child < first + leaves) | before)


@jit
def _delta(features, a, b, c, here):
    """The difference [nodes, channels] of the features of two nodes, without rounding in float32."""
    of_a = tl.load(features + a + c, mask=here, other=0)
    of_b = tl.load(features + b + c, mask=here, other=0)
    return of_b.to(tl.float64) - of_a.to(tl.float64), of_a, of_b


@jit
def _weight(count, size, exponent, child, here, starts, distance, first, leaves):
    """Size and exponent of a child's weight size * exp(exponent), which does not underflow."""
    i = child - first - leaves
    own = tl.maximum(tl.load(count + child, mask=starts, other=1), 1).to(tl.float64)
    summed = here & (starts == 0)
    n = tl.where(starts, own, tl.load(size + i, mask=summed, other=1))
    return n, tl.where(starts, -distance, tl.load(exponent + i, mask=summed, other=0))


@jit
def _pool_kernel(
    order,  # [B,I]
    begin,  # [B,I+1]
    number,  # [B]
    low,  # [B,I]
    high,  # [B,I]
    count,  # [B,V]
    round,  # [B,V]
    features,  # [B,V,C]
    share,  # [B,V]
    size,  # [B,I] scratch: the weight is size * exp(exponent)
    exponent,  # [B,I]
    nodes,  # V
    channels,
    NODES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """A program per image goes up its levels, with a tile of nodes and channels. Reads features twice, writes them."""
    image = tl.program_id(0).to(tl.int64)
    leaves = (nodes + 1) // 2
    inner, first = nodes - leaves, image * nodes
    order, low, high = order + image * inner, low + image * inner, high + image * inner
    size, exponent = size + image * inner, exponent + image * inner
    begin += image * (inner + 1)
    level = tl.load(number + image) - 1
    while level >= 0:
        base, past = tl.load(begin + level), tl.load(begin + level + 1)
        while base < past:
            i, row, a, b, here = _merges(order, low, high, base + tl.arange(0, NODES), past, first, leaves)
            distance = tl.zeros([NODES], tl.float64)
            row_a, row_b, row_p = (a * channels)[:, None], (b * channels)[:, None], (row * channels)[:, None]
            chunk = 0
            while chunk < channels:
                c = chunk + tl.arange(0, CHANNELS)[None, :]
                delta, _, _ = _delta(features, row_a, row_b, c, here[:, None] & (c < channels))
                distance += tl.sum(delta * delta, axis=1)
                chunk += CHANNELS
            starts_a = _starts(round, a, row, here, first, leaves)
            starts_b = _starts(round, b, row, here, first, leaves)
            n_a, e_a = _weight(count, size, exponent, a, here, starts_a, distance, first, leaves)
            n_b, e_b = _weight(count, size, exponent, b, here, starts_b, distance, first, leaves)
            less = e_a < e_b
            scale = tl.where(e_a == e_b, 1.0, tl.exp(tl.where(less, e_a - e_b, e_b - e_a)))
            n_a, n_b = tl.where(less, n_a * scale, n_a), tl.where(less, n_b, n_b * scale)
            part = n_b / (n_a + n_b)
            tl.store(size + i, n_a + n_b, mask=here)
            tl.store(exponent + i, tl.where(less, e_b, e_a), mask=here)
            tl.store(share + a, (1 - part).to(share.dtype.element_ty), mask=here)
            tl.store(share + b, part.to(share.dtype.element_ty), mask=here)
            chunk = 0
            while chunk < channels:
                c = chunk + tl.arange(0, CHANNELS)[None, :]
                there = here[:, None] & (c < channels)
                _, of_a, of_b = _delta(features, row_a, row_b, c, there)
                pooled = of_a + (of_b - of_a) * part.to(of_a.dtype)[:, None]
                tl.store(features + row_p + c, pooled, mask=there)
                chunk += CHANNELS
            base += NODES
        tl.debug_barrier()
        level -= 1


@jit
def _add(total, row, c, value, here):
    before = tl.load(total + row + c, mask=here, other=0)
    tl.store(total + row + c, before + value.to(before.dtype), mask=here)


@jit
def _pool_backward_kernel(
    order,  # [B,I]
    begin,  # [B,I+1]
    number,  # [B]
    low,  # [B,I]
    high,  # [B,I]
    features,  # [B,V,C]
    share,  # [B,V]
    round,  # [B,V]
    total,  # [B,V,C] the gradient, to which parents add
    weight_grad,  # [B,I] 0; to the logarithm of the weight
    nodes,  # V
    channels,
    NODES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """A program per image goes down its levels, with a tile of nodes and channels, and adds to their children.

    A node without gradient passes none on, even where there is NaN.
    """
    image = tl.program_id(0).to(tl.int64)
    leaves = (nodes + 1) // 2
    inner, first = nodes - leaves, image * nodes
    order, low, high = order + image * inner, low + image * inner, high + image * inner
    weight_grad += image * inner
    begin += image * (inner + 1)
    levels, level = tl.load(number + image), 0
    while level < levels:
        base, past = tl.load(begin + level), tl.load(begin + level + 1)
        while base < past:
            i, row, a, b, here = _merges(order, low, high, base + tl.arange(0, NODES), past, first, leaves)
            row_a, row_b, row_p = (a * channels)[:, None], (b * channels)[:, None], (row * channels)[:, None]
            of_weight = tl.load(weight_grad + i, mask=here, other=0)
            dot = tl.zeros([NODES], tl.float64)
            some = of_weight != 0
            chunk = 0
            while chunk < channels:
                c = chunk + tl.arange(0, CHANNELS)[None, :]
                there = here[:, None] & (c < channels)
                of_p = tl.load(total + row_p + c, mask=there, other=0)
                delta, _, _ = _delta(features, row_a, row_b, c, there)
                dot += tl.sum(of_p.to(tl.float64) * delta, axis=1)
                some = some | (tl.max((of_p != 0).to(tl.int32), axis=1) > 0)
                chunk += CHANNELS
            here = here & some
            part_a = tl.load(share + a, mask=here, other=0).to(tl.float64)
            part_b = tl.load(share + b, mask=here, other=0).to(tl.float64)
            turn = part_a * part_b * dot
            to_a, to_b = part_a * of_weight - turn, part_b * of_weight + turn
            starts_a = _starts(round, a, row, here, first, leaves)
            starts_b = _starts(round, b, row, here, first, leaves)
            tl.store(weight_grad + (a - first - leaves), to_a, mask=here & (starts_a == 0))
            tl.store(weight_grad + (b - first - leaves), to_b, mask=here & (starts_b == 0))
            pull = tl.where(starts_a, to_a, 0) + tl.where(starts_b, to_b, 0)
            pull = tl.where(starts_a & starts_b, of_weight, pull)
            chunk = 0
            while chunk < channels:
                c = chunk + tl.arange(0, CHANNELS)[None, :]
                there = here[:, None] & (c < channels)
                of_p = tl.load(total + row_p + c, mask=there, other=0).to(tl.float64)
                delta, _, _ = _delta(features, row_a, row_b, c, there)
                along = 2 * pull[:, None] * delta
                _add(total, row_a, c, part_a[:, None] * of_p + along, there)
                _add(total, row_b, c, part_b[:, None] * of_p - along, there)
                chunk += CHANNELS
            base += NODES
        tl.debug_barrier()
        level += 1


def _tile(channels: int) -> dict[str, int]:
    """The shape of the tiles in which a program goes along a level."""
    width = min(next_power_of_2(max(channels, 1)), MOST_CHANNELS)
    return {"NODES": TILE // width, "CHANNELS": width, "warps": 16}


def _started(values: Tensor, round: Tensor) -> Tensor:
    """Numbers [B,V,C] of all nodes from those of the leaves, or of all."""
    batch, given, channels = values.shape
    nodes = round.shape[1]
    out = values.new_empty(batch, nodes, channels)
    sizes = (out.numel(), nodes, given, channels)
    launch(_start_kernel, cdiv(out.numel(), BLOCK), values, values.contiguous(), round, out, *sizes, BLOCK=BLOCK)
    return out


def similarity_pool(features: Tensor, count: Tensor, parent: Tensor, round: Tensor) -> tuple[Tensor, Tensor]:
    """Features [B,V,C] of every node, and its share [B,V] in its parent's."""
    batch, nodes = parent.shape
    round = round.contiguous()
    out, share = _started(features, round), features.new_zeros(batch, nodes)
    size = features.new_ones(batch, nodes // 2, dtype=torch.float64)  # of an inner node without two children
    exponent = torch.zeros_like(size)
    members, levels = family(parent.contiguous(), round)
    given = (members.low, members.high, count.contiguous(), round, out, share, size, exponent)
    channels = features.shape[2]
    launch(_pool_kernel, batch, out, *levels, *given, nodes, channels, **_tile(channels))
    return out, share


def similarity_pool_backward(
    grad: Tensor, node_features: Tensor, share: Tensor, count: Tensor, parent: Tensor, round: Tensor
) -> Tensor:
    """From the root down; the gradient to the logarithm of a weight goes along with that to the features."""
    batch, nodes, channels = node_features.shape
    round = round.contiguous()
    total = _started(grad, round)
    weight_grad = grad.new_zeros(batch, nodes // 2, dtype=torch.float64)
    members, levels = family(parent.contiguous(), round)
    given = (members.low, members.high, node_features.contiguous(), share.contiguous(), round, total, weight_grad)
    launch(_pool_backward_kernel, batch, total, *levels, *given, nodes, channels, **_tile(channels))
    return total[:, : nodes - nodes // 2].contiguous()
