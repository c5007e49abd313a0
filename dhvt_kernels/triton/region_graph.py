"""Which segments touch: pairs of neighbouring pixels become keys, which are sorted and counted."""

import torch
from torch import Tensor

from ._checked import checked
from ._lanes import lanes
from ._language import cdiv, jit, tl
from ._launch import launch
from ._math import wide

BLOCK = 1024


@jit
def _key(own, other, num_segments, NO_KEY: tl.constexpr):
    """u * K + v for segments u < v, in the order of the edges; the largest number where two pixels are no contact."""
    touch = (own != other) & (own >= 0) & (other >= 0) & (own < num_segments) & (other < num_segments)
    key = wide(tl.minimum(own, other)) * num_segments + tl.maximum(own, other)
    return tl.where(touch, key, NO_KEY)


@jit
def _contact_kernel(
    labels,  # [B,H,W]
    keys,  # [B,2,H,W] of each pixel with its right and its lower neighbour
    height,
    width,
    num_segments,
    pixels,  # B H W
    NO_KEY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One lane per pixel: reads 4 bytes (twice, from the cache) and writes two keys of 4 or 8 bytes."""
    at, here = lanes(pixels, BLOCK)
    plane = wide(height) * width
    own = tl.load(labels + at, mask=here, other=-1)
    right = tl.load(labels + at + 1, mask=here & (at % width + 1 < width), other=-1)
    below = tl.load(labels + at + width, mask=here & (at % plane + width < plane), other=-1)
    out = keys + at + at // plane * plane
    tl.store(out, _key(own, right, num_segments, NO_KEY).to(keys.dtype.element_ty), mask=here)
    tl.store(out + plane, _key(own, below, num_segments, NO_KEY).to(keys.dtype.element_ty), mask=here)


@jit
def _sorted_keys(keys, at, here, first_of_row, last_of_row, NO_KEY: tl.constexpr):
    """Keys, and whether each is the first and the last of its kind in its row."""
    key = tl.load(keys + at, mask=here, other=NO_KEY)
    before = tl.load(keys + at - 1, mask=here & (first_of_row == 0), other=NO_KEY)
    after = tl.load(keys + at + 1, mask=here & (last_of_row == 0), other=NO_KEY)
    contact = key != NO_KEY
    return key, contact & (first_of_row | (key != before)), contact & (last_of_row | (key != after))


@jit
def _first_kernel(
    keys,  # [B,M], sorted
    first,  # [B,M] 1 where a key is the first of its kind
    row,  # M
    total,  # B M
    NO_KEY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One lane per key: reads 4 or 8 bytes, and writes 4."""
    at, here = lanes(total, BLOCK)
    _, is_first, _ = _sorted_keys(keys, at, here, at % row == 0, at % row == row - 1, NO_KEY)
    tl.store(first + at, is_first.to(tl.int32), mask=here)


@jit
def _edge_kernel(
    keys,  # [B,M], sorted
    rank,  # [B,M] kinds of keys up to this one, in this row and those before
    edges,  # [B,E,2] of -1
    lengths,  # [B,E] of 0
    counts,  # [B]
    num_segments,
    capacity,  # E
    row,  # M
    total,  # B M
    NO_KEY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One lane per key: reads 8 or 12 bytes. The first and the last key of a kind add up to the edge's length."""
    at, here = lanes(total, BLOCK)
    image, place = at // row, at % row
    ends = place == row - 1
    key, is_first, is_last = _sorted_keys(keys, at, here, place == 0, ends, NO_KEY)
    kinds = tl.load(rank + at, mask=here, other=0) - tl.load(rank + at - place - 1, mask=here & (image > 0), other=0)
    tl.store(counts + image, kinds, mask=here & ends)
    slot = image * capacity + kinds - 1
    fits = kinds <= capacity
    tl.store(edges + 2 * slot, (key // num_segments).to(tl.int32), mask=is_first & fits)
    tl.store(edges + 2 * slot + 1, (key % num_segments).to(tl.int32), mask=is_first & fits)
    length = tl.where(is_last, place + 1, 0) - tl.where(is_first, place, 0)
    tl.atomic_add(lengths + slot, length.to(tl.int32), mask=(is_first | is_last) & fits, sem="relaxed")


@checked(labels="int32 B H W", num_segments=0, capacity=0)
def region_graph(labels: Tensor, num_segments: int, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sorted pairs of touching segments u < v, their numbers of 4-neighbour pixel pairs, and the number of edges."""
    batch, height, width = labels.shape
    edges, lengths = labels.new_full((batch, capacity, 2), -1), labels.new_zeros(batch, capacity)
    counts = labels.new_zeros(batch)
    pixels, row = batch * height * width, 2 * height * width
    if pixels == 0 or num_segments == 0:
        return edges, lengths, counts
    dtype = torch.int32 if num_segments**2 < 2**31 else torch.int64  # half the bytes to sort
    none = torch.iinfo(dtype).max
    keys = labels.new_empty(batch, row, dtype=dtype)
    launch(
        _contact_kernel,
        cdiv(pixels, BLOCK),
        labels,
        labels.contiguous(),
        keys,
        height,
        width,
        num_segments,
        pixels,
        NO_KEY=none,
        BLOCK=BLOCK,
    )
    keys = keys.sort(1).values
    first = torch.empty_like(keys, dtype=torch.int32)
    programs = cdiv(batch * row, BLOCK)
    launch(_first_kernel, programs, labels, keys, first, row, batch * row, NO_KEY=none, BLOCK=BLOCK)
    rank = first.flatten().cumsum(0, dtype=torch.int32)  # of the batch: torch sums a row with one block of threads
    launch(
        _edge_kernel,
        programs,
        labels,
        keys,
        rank,
        edges,
        lengths,
        counts,
        num_segments,
        capacity,
        row,
        batch * row,
        NO_KEY=none,
        BLOCK=BLOCK,
    )
    return edges, lengths, counts
