"""Means up a tree, weighted by size times similarity, and their gradients down it."""

import torch
from torch import Tensor

from ._checked import checked, require
from ._lanes import BLOCK, lanes
from ._language import cdiv, jit, next_power_of_2, tl
from ._launch import launch
from ._tree import family

#: Numbers of a tile [nodes, channels] of the program that goes along an image's generations, with 8 warps.
TILE, MOST_CHANNELS = 2048, 64


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
def _weight_kernel(
    count,  # [B V]
    parent,  # [B V]
    round,  # [B V]
    size,  # [B V]
    exponent,  # [B V]
    number,  # B V
    nodes,  # V
    BLOCK: tl.constexpr,
):
    """A lane per node: the weight size * exp(exponent) of one that was there before the round that merged it is its
    size times a similarity, whose exponent is not known yet: 1. That of an inner node without two children is 1."""
    row, here = lanes(number, BLOCK)
    v, leaves = row % nodes, (nodes + 1) // 2
    p = tl.load(parent + row, mask=here, other=-1)
    has = here & (p > v) & (p < nodes)
    own = tl.load(round + row, mask=here, other=0)
    starts = has & ((v < leaves) | (own < tl.load(round + row - v + p, mask=has, other=0)))
    counted = tl.maximum(tl.load(count + row, mask=here, other=1), 1).to(tl.float64)
    tl.store(size + row, tl.where(starts, counted, 1), mask=here)
    tl.store(exponent + row, tl.where(starts, 1.0, 0.0).to(tl.float64), mask=here)


@jit
def _pool_kernel(
    order,  # [B,I]
    begin,  # [B,I+1]
    number,  # [B]
    low,  # [B,I]
    high,  # [B,I]
    features,  # [B,V,C]
    share,  # [B,V]
    size,  # [B,V]
    exponent,  # [B,V]
    nodes,  # V
    channels,
    NODES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """A program per image goes up its generations, with a tile of nodes and channels.

    Reads features twice, writes them.
    """
    image = tl.program_id(0).to(tl.int64)
    leaves = (nodes + 1) // 2
    inner, first = nodes - leaves, image * nodes
    begin += image * (inner + 1)
    order, low, high = order + image * inner, low + image * inner, high + image * inner
    features, share, size, exponent = features + first * channels, share + first, size + first, exponent + first
    lane, channel = tl.arange(0, NODES), tl.arange(0, CHANNELS)[None, :]
    acc = features.dtype.element_ty
    generation = tl.load(number + image) - 1
    while generation >= 0:
        base, past = tl.load(begin + generation), tl.load(begin + generation + 1)
        while base < past:
            place = base + lane
            i = tl.load(order + place, mask=place < past)
            a = tl.load(low + i, mask=place < past, other=-1)
            here = a >= 0  # two children
            b = tl.load(high + i, mask=here)
            from_a, from_b = (
                features + a.to(tl.int64)[:, None] * channels,
                features + b.to(tl.int64)[:, None] * channels,
            )
            distance = tl.zeros([NODES], tl.float64)
            chunk = 0
            while chunk < channels:
                c = chunk + channel
                there = here[:, None] & (c < channels)
                of_a = tl.load(from_a + c, mask=there, other=0).to(tl.float64)
                delta = tl.load(from_b + c, mask=there, other=0).to(tl.float64) - of_a
                distance += tl.sum(delta * delta, axis=1)
                chunk += CHANNELS
            n_a, e_a = tl.load(size + a, mask=here), tl.load(exponent + a, mask=here)
            n_b, e_b = tl.load(size + b, mask=here), tl.load(exponent + b, mask=here)
            e_a, e_b = tl.where(e_a > 0, -distance, e_a), tl.where(e_b > 0, -distance, e_b)
            less = e_a < e_b
            scale = tl.where(e_a == e_b, 1.0, tl.exp(tl.where(less, e_a - e_b, e_b - e_a)))
            n_a, n_b = tl.where(less, n_a * scale, n_a), tl.where(less, n_b, n_b * scale)
            n = n_a + n_b
            part = n_b / n
            tl.store(share + a, (1 - part).to(acc), mask=here)
            tl.store(share + b, part.to(acc), mask=here)
            row = i + leaves
            summed = here & (tl.load(exponent + row, mask=here, other=1) <= 0)
            tl.store(size + row, n, mask=summed)
            tl.store(exponent + row, tl.where(less, e_b, e_a), mask=summed)
            part = part.to(acc)[:, None]
            out = features + row[:, None] * channels
            chunk = 0
            while chunk < channels:
                c = chunk + channel
                there = here[:, None] & (c < channels)
                of_a = tl.load(from_a + c, mask=there, other=0)
                of_b = tl.load(from_b + c, mask=there, other=0)
                tl.store(out + c, of_a + (of_b - of_a) * part, mask=there)
                chunk += CHANNELS
            base += NODES
        tl.debug_barrier()
        generation -= 1


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
    weight_grad,  # [B,V] 0; to the logarithm of the weight
    nodes,  # V
    channels,
    NODES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """A program per image goes down its generations, with a tile of nodes and channels, and adds to their children.

    A node without gradient passes none on, even where there is NaN.
    """
    image = tl.program_id(0).to(tl.int64)
    leaves = (nodes + 1) // 2
    inner, first = nodes - leaves, image * nodes
    begin += image * (inner + 1)
    order, low, high = order + image * inner, low + image * inner, high + image * inner
    features, total = features + first * channels, total + first * channels
    share, round, weight_grad = share + first, round + first, weight_grad + first
    lane, channel = tl.arange(0, NODES), tl.arange(0, CHANNELS)[None, :]
    acc = total.dtype.element_ty
    generations, generation = tl.load(number + image), 0
    while generation < generations:
        base, past = tl.load(begin + generation), tl.load(begin + generation + 1)
        while base < past:
            place = base + lane
            i = tl.load(order + place, mask=place < past)
            a = tl.load(low + i, mask=place < past, other=-1)
            here = a >= 0  # two children
            b, row = tl.load(high + i, mask=here), i + leaves
            at_a, at_b, at_row = (
                a.to(tl.int64)[:, None] * channels,
                b.to(tl.int64)[:, None] * channels,
                row[:, None] * channels,
            )
            of_weight = tl.load(weight_grad + row, mask=here, other=0)
            dot = tl.zeros([NODES], tl.float64)
            some = (of_weight != 0).to(tl.int32)
            chunk = 0
            while chunk < channels:
                c = chunk + channel
                there = here[:, None] & (c < channels)
                of_a = tl.load(features + at_a + c, mask=there, other=0).to(tl.float64)
                delta = tl.load(features + at_b + c, mask=there, other=0).to(tl.float64) - of_a
                of_row = tl.load(total + at_row + c, mask=there, other=0)
                dot += tl.sum(of_row.to(tl.float64) * delta, axis=1)
                some += tl.sum((of_row != 0).to(tl.int32), axis=1)
                chunk += CHANNELS
            here = here & (some > 0)
            part_a = tl.load(share + a, mask=here).to(tl.float64)
            part_b = tl.load(share + b, mask=here).to(tl.float64)
            turn = part_a * part_b * dot
            to_a, to_b = part_a * of_weight - turn, part_b * of_weight + turn
            # Those whose weight is their size times a similarity: they were there before the round that merged them.
            made = tl.load(round + row, mask=here)
            starts_a = (a < leaves) | (tl.load(round + a, mask=here) < made)
            starts_b = (b < leaves) | (tl.load(round + b, mask=here) < made)
            tl.store(weight_grad + a, to_a, mask=here & (starts_a == 0))
            tl.store(weight_grad + b, to_b, mask=here & (starts_b == 0))
            pull = tl.where(starts_a, to_a, 0) + tl.where(starts_b, to_b, 0)
            pull = (2 * tl.where(starts_a & starts_b, of_weight, pull))[:, None]
            part_a, part_b = part_a[:, None], part_b[:, None]
            chunk = 0
            while chunk < channels:
                c = chunk + channel
                there = here[:, None] & (c < channels)
                of_a = tl.load(features + at_a + c, mask=there, other=0).to(tl.float64)
                along = pull * (tl.load(features + at_b + c, mask=there, other=0).to(tl.float64) - of_a)
                of_row = tl.load(total + at_row + c, mask=there, other=0).to(tl.float64)
                sum_a, sum_b = total + at_a + c, total + at_b + c
                more_a, more_b = (part_a * of_row + along).to(acc), (part_b * of_row - along).to(acc)
                tl.store(sum_a, tl.load(sum_a, mask=there, other=0) + more_a, mask=there)
                tl.store(sum_b, tl.load(sum_b, mask=there, other=0) + more_b, mask=there)
                chunk += CHANNELS
            base += NODES
        tl.debug_barrier()
        generation += 1


def _tile(channels: int) -> dict[str, int]:
    """The shape of the tiles in which a program goes along a generation."""
    width = min(next_power_of_2(max(channels, 1)), MOST_CHANNELS)
    return {"NODES": TILE // width, "CHANNELS": width, "warps": 8}


def _started(values: Tensor, round: Tensor) -> Tensor:
    """Numbers [B,V,C] of all nodes from those of the leaves, or of all."""
    batch, given, channels = values.shape
    nodes = round.shape[1]
    out = values.new_empty(batch, nodes, channels)
    sizes = (out.numel(), nodes, given, channels)
    launch(_start_kernel, cdiv(out.numel(), BLOCK), values, values.contiguous(), round, out, *sizes, BLOCK=BLOCK)
    return out


@checked(features="accumulated B L C", count="int32 B V", parent="int32 B V", round="int32 B V")
def similarity_pool(features: Tensor, count: Tensor, parent: Tensor, round: Tensor) -> tuple[Tensor, Tensor]:
    """Features [B,V,C] of every node, and its share [B,V] in its parent's."""
    (batch, nodes), leaves = parent.shape, features.shape[1]
    require(nodes == max(2 * leaves - 1, 0), f"expected V = 2 L - 1 nodes; found {nodes} of {leaves} leaves")
    round = round.contiguous()
    out, share = _started(features, round), features.new_zeros(batch, nodes)
    parent, count = parent.contiguous(), count.contiguous()
    size = share.new_empty(batch, nodes, dtype=torch.float64)
    exponent = torch.empty_like(size)
    weights = (size, exponent, size.numel(), nodes)
    launch(_weight_kernel, cdiv(size.numel(), BLOCK), size, count, parent, round, *weights, BLOCK=BLOCK)
    members, generations = family(parent, round)
    given = (members.low, members.high, out, share, size, exponent)
    channels = features.shape[2]
    launch(_pool_kernel, batch, out, *generations, *given, nodes, channels, **_tile(channels))
    return out, share


@checked(
    node_features="accumulated B V C",
    grad="same B V C",
    share="same B V",
    count="int32 B V",
    parent="int32 B V",
    round="int32 B V",
)
def similarity_pool_backward(
    grad: Tensor, node_features: Tensor, share: Tensor, count: Tensor, parent: Tensor, round: Tensor
) -> Tensor:
    """From the root down; the gradient to the logarithm of a weight goes along with that to the features."""
    batch, nodes, channels = node_features.shape
    round = round.contiguous()
    total = _started(grad, round)
    weight_grad = grad.new_zeros(batch, nodes, dtype=torch.float64)
    members, generations = family(parent.contiguous(), round)
    given = (members.low, members.high, node_features.contiguous(), share.contiguous(), round, total, weight_grad)
    launch(_pool_backward_kernel, batch, total, *generations, *given, nodes, channels, **_tile(channels))
    return total[:, : nodes - nodes // 2].contiguous()
