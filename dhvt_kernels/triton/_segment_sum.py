"""Sums over segments: of features, of their differences from a pixel of the segment, or of squared deviations."""

import torch
from torch import Tensor

from .._checks import accumulation_dtype
from ._lanes import lanes
from ._language import cdiv, jit, tl, triton_dtype
from ._launch import launch
from ._math import wide
from ._segments import box_of, first_pixel, steps_over, tile_of_box, walk_over, walked_by
from ._tiles import WORK


@jit
def _sum_kernel(
    features,  # [B,C,H,W] by its strides
    labels,  # [B,H,W]
    weights,  # [B,H,W], of "weighted", or None: 1
    mean,  # [B,K,C], of "squares" only
    reach,  # [B,K,4]
    sums,  # [strips,B,K,C]
    mass,  # [strips,B,K], of "weighted" only
    channels,
    height,
    width,
    num_segments,
    segments,  # B K
    blocks,
    strips,
    strip_rows,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    KIND: tl.constexpr,
    ACC: tl.constexpr,
    SEGMENTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A program walks the boxes of its segments side by side, and sums some channels in one strip of rows.

    Every lane keeps its own sums until the end, so their order is fixed. A label is read once per block of channels and
    box that covers it, about twice, mostly from the cache; a feature once.
    """
    channel, strip, segment, exists = walked_by(
        tl.program_id(0).to(tl.int64), blocks, strips, num_segments, segments, SEGMENTS, CHANNELS
    )
    image, k = segment // num_segments, segment % num_segments
    top, left, bottom, right = box_of(reach, segment, exists, strip, strip_rows, height, width)
    across, steps = steps_over(top, left, bottom, right, ROWS, COLUMNS)
    lane = wide(tl.arange(0, ROWS * COLUMNS))
    row, column = lane // COLUMNS, lane % COLUMNS
    of_lane = (channel * channel_stride)[:, None] + (row * row_stride + column * column_stride)[None, :]
    table = segment[:, None] * channels + channel[None, :]
    in_table = exists[:, None] & (channel < channels)[None, :]
    origin = tl.zeros([SEGMENTS, CHANNELS], ACC)
    if KIND == "differences":
        first = first_pixel(reach, segment, exists, height, width)
        divisor = tl.maximum(wide(width), 1)
        start = image * image_stride + first // divisor * row_stride + first % divisor * column_stride
        held = in_table & (first < wide(height) * width)[:, None]
        at = features + start[:, None] + (channel * channel_stride)[None, :]
        origin = tl.load(at, mask=held, other=0).to(ACC)
    if KIND == "squares":
        origin = tl.load(mean + table, mask=in_table, other=0)
    total = tl.zeros([SEGMENTS, CHANNELS, ROWS * COLUMNS], ACC)
    total_weight = tl.zeros([SEGMENTS, ROWS * COLUMNS], ACC)
    step = 0
    while step < steps:
        y, x, inside = tile_of_box(step, across, top, left, bottom, right, row, column, ROWS, COLUMNS)
        place = ((image * height + y) * width + x)[:, None] + (row * width + column)[None, :]
        own = inside & (tl.load(labels + place, mask=inside, other=-1) == k[:, None])
        wanted = own[:, None, :] & (channel < channels)[None, :, None]
        corner = image * image_stride + y * row_stride + x * column_stride
        value = tl.load(features + corner[:, None, None] + of_lane[None, :, :], mask=wanted, other=0).to(ACC)
        if KIND != "weighted":
            value -= origin[:, :, None]
        if KIND == "squares":
            value *= value
        if KIND == "weighted":
            weight = own.to(ACC)
            if weights is not None:
                weight = tl.load(weights + place, mask=own, other=0)
                value *= weight[:, None, :]
            total_weight += weight
        total += tl.where(wanted, value, 0)
        step += 1
    tl.store(sums + strip * segments * channels + table, tl.sum(total, axis=2), mask=in_table)
    if KIND == "weighted":
        first_block = exists & (tl.program_id(0) % blocks == 0)
        tl.store(mass + strip * segments + segment, tl.sum(total_weight, axis=1), mask=first_block)


@jit
def _join_kernel(parts, out, number, strips, BLOCK: tl.constexpr):
    """One lane per sum: adds the strips of parts [strips,number] in order. Reads each once."""
    index, here = lanes(number, BLOCK)
    total = tl.load(parts + index, mask=here)
    strip = 1
    while strip < strips:
        total += tl.load(parts + wide(strip) * number + index, mask=here)
        strip += 1
    tl.store(out + index, total, mask=here)


def join(parts: Tensor) -> Tensor:
    """Sums of strips [strips,...] over the strips."""
    out = parts[0]
    if parts.shape[0] > 1:
        out = torch.empty_like(out)
        launch(_join_kernel, cdiv(out.numel(), WORK), out, parts, out, out.numel(), parts.shape[0], BLOCK=WORK)
    return out


def sums_by_strip(
    kind: str, features: Tensor, labels: Tensor, weights: Tensor | None, mean: Tensor | None, reach: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums [strips,B,K,C] over each segment's pixels in each strip, of a kind, and masses [strips,B,K] of "weighted".

    "weighted": w f, w being 1 where None; "differences": f - the segment's first pixel; "squares": (f - mean)^2.
    labels, weights and mean are dense, the latter two in the accumulation dtype.
    """
    batch, channels, height, width = features.shape
    num_segments = reach.shape[1]
    dtype = accumulation_dtype(features.dtype)
    walk = walk_over(batch, channels, height, width, num_segments)
    sums = features.new_empty(walk.strips, batch, num_segments, channels, dtype=dtype)
    mass = sums.new_empty(walk.strips, batch, num_segments)
    launch(
        _sum_kernel,
        walk.programs,
        features,
        features,
        labels,
        weights,
        mean,
        reach,
        sums,
        mass,
        channels,
        height,
        width,
        num_segments,
        batch * num_segments,
        walk.blocks,
        walk.strips,
        walk.strip_rows,
        *features.stride(),
        KIND=kind,
        ACC=triton_dtype(dtype),
        SEGMENTS=walk.segments,
        CHANNELS=walk.channels,
        ROWS=walk.rows,
        COLUMNS=walk.columns,
    )
    return sums, mass
