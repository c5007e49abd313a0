"""Maxima over segments, and where they are: NaN counts as the maximum, the first pixel in raster order wins."""

import torch
from torch import Tensor

from .._checks import accumulation_dtype
from ._lanes import lanes
from ._language import cdiv, jit, tl, triton_dtype
from ._launch import launch
from ._math import wide
from ._segments import box_of, steps_over, tile_of_box, walk_over, walked_by
from ._tiles import WORK


@jit
def _takes_over(value, best, index):
    """Whether a value replaces the best of earlier pixels, at `index`; -1: of none."""
    return (index < 0) | (((value <= best) == 0) & (best == best))


@jit
def _max_kernel(
    features,  # [B,C,H,W] by its strides
    labels,  # [B,H,W]
    reach,  # [B,K,4]
    values,  # [strips,B,K,C]
    indices,  # [strips,B,K,C]
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
    ACC: tl.constexpr,
    SEGMENTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """As `_sum_kernel` walks; a lane meets its pixels in raster order, and keeps its maximum until the end.

    A label is read once per block of channels and box that covers it, a feature once.
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
    best = tl.zeros([SEGMENTS, CHANNELS, ROWS * COLUMNS], ACC)
    index = tl.full([SEGMENTS, CHANNELS, ROWS * COLUMNS], -1, tl.int32)
    step = 0
    while step < steps:
        y, x, inside = tile_of_box(step, across, top, left, bottom, right, row, column, ROWS, COLUMNS)
        pixel = (y * width + x)[:, None] + (row * width + column)[None, :]
        label = tl.load(labels + (image * height * width)[:, None] + pixel, mask=inside, other=-1)
        own = inside & (label == k[:, None])
        wanted = own[:, None, :] & (channel < channels)[None, :, None]
        corner = image * image_stride + y * row_stride + x * column_stride
        value = tl.load(features + corner[:, None, None] + of_lane[None, :, :], mask=wanted, other=0).to(ACC)
        wins = wanted & _takes_over(value, best, index)
        best = tl.where(wins, value, best)
        index = tl.where(wins, pixel.to(tl.int32)[:, None, :], index)
        step += 1
    is_nan, infinity = best != best, float("inf")
    has_nan = tl.max(is_nan.to(tl.int32), axis=2) > 0
    top_value = tl.max(tl.where(is_nan | (index < 0), -infinity, best), axis=2)
    is_top = tl.where(has_nan[:, :, None], is_nan, best == top_value[:, :, None]) & (index >= 0)
    first = tl.min(tl.where(is_top, index, 0x7FFFFFFF), axis=2)
    empty = first == 0x7FFFFFFF
    table = strip * segments * channels + segment[:, None] * channels + channel[None, :]
    in_table = exists[:, None] & (channel < channels)[None, :]
    top_value = tl.where(has_nan, float("nan"), tl.where(empty, 0.0, top_value))
    tl.store(values + table, top_value, mask=in_table)
    tl.store(indices + table, tl.where(empty, -1, first), mask=in_table)


@jit
def _join_kernel(values, indices, out, out_indices, number, strips, BLOCK: tl.constexpr):
    """One lane per maximum: the best of the strips of values and indices [strips,number], in their order."""
    lane, here = lanes(number, BLOCK)
    best = tl.load(values + lane, mask=here, other=0)
    index = tl.load(indices + lane, mask=here, other=-1)
    strip = 1
    while strip < strips:
        value = tl.load(values + wide(strip) * number + lane, mask=here, other=0)
        of_value = tl.load(indices + wide(strip) * number + lane, mask=here, other=-1)
        wins = (of_value >= 0) & _takes_over(value, best, index)
        best, index = tl.where(wins, value, best), tl.where(wins, of_value, index)
        strip += 1
    tl.store(out + lane, best, mask=here)
    tl.store(out_indices + lane, index, mask=here)


def maxima(features: Tensor, labels: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima [B,K,C] over the pixels of each segment, and the first pixel (y * W + x) of each; 0 and -1 where empty.

    labels is dense.
    """
    batch, channels, height, width = features.shape
    num_segments = reach.shape[1]
    walk = walk_over(batch, channels, height, width, num_segments)
    values = features.new_empty(walk.strips, batch, num_segments, channels)
    indices = values.new_empty(values.shape, dtype=torch.int32)
    launch(
        _max_kernel,
        walk.programs,
        features,
        features,
        labels,
        reach,
        values,
        indices,
        channels,
        height,
        width,
        num_segments,
        batch * num_segments,
        walk.blocks,
        walk.strips,
        walk.strip_rows,
        *features.stride(),
        ACC=triton_dtype(accumulation_dtype(features.dtype)),
        SEGMENTS=walk.segments,
        CHANNELS=walk.channels,
        ROWS=walk.rows,
        COLUMNS=walk.columns,
    )
    if walk.strips == 1:
        return values[0], indices[0]
    out, out_indices = torch.empty_like(values[0]), torch.empty_like(indices[0])
    programs = cdiv(out.numel(), WORK)
    launch(_join_kernel, programs, out, values, indices, out, out_indices, out.numel(), walk.strips, BLOCK=WORK)
    return out, out_indices
