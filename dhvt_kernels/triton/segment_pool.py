"""Sums and maxima over segments, and what the pixels get from their segment's row of a table."""

import torch
from torch import Tensor

from .._checks import INT32_MAX, accumulation_dtype
from .._layout import image_format
from ._checked import checked, require
from ._language import jit, tl, triton_dtype
from ._launch import launch
from ._segment_max import maxima
from ._segment_sum import join, sums_by_strip
from ._segments import extents
from ._tiles import channels_from, image_tile, row_of_pixel, tiles_of


@jit
def _gather_kernel(
    values,  # [B,K,C]
    labels,  # [B,H,W]
    weights,  # [B,H,W], or None: 1
    out,  # [B,C,H,W] by its strides
    channels,
    height,
    width,
    num_segments,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    ACC: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program per tile of pixels: 4 bytes in per pixel, b C out; the table's rows come from the caches."""
    image, y, x, here = image_tile(tl.program_id(0).to(tl.int64), height, width, ROWS, COLUMNS)
    row, place, inside = row_of_pixel(labels, image, y, x, here, height, width, num_segments)
    target = out + image * image_stride + y * row_stride + x * column_stride
    first = 0
    while first < channels:
        c = channels_from(first, CHANNELS)
        wanted = here[None, :, :] & (c < channels)
        value = tl.load(values + row[None, :, :] * channels + c, mask=wanted & inside[None, :, :], other=0)
        if weights is not None:
            weight = tl.load(weights + place, mask=inside, other=0)
            value = value.to(ACC) * weight[None, :, :]
        tl.store(target[None, :, :] + c * channel_stride, value, mask=wanted)
        first += CHANNELS


@jit
def _dot_kernel(
    values,  # [B,K,C]
    features,  # [B,C,H,W] by its strides
    labels,  # [B,H,W]
    out,  # [B,H,W]
    channels,
    height,
    width,
    num_segments,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    ACC: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program per tile of pixels: 4 + b C bytes in per pixel and one number out."""
    image, y, x, here = image_tile(tl.program_id(0).to(tl.int64), height, width, ROWS, COLUMNS)
    row, place, inside = row_of_pixel(labels, image, y, x, here, height, width, num_segments)
    source = features + image * image_stride + y * row_stride + x * column_stride
    total = tl.zeros([CHANNELS, ROWS, COLUMNS], ACC)
    first = 0
    while first < channels:
        c = channels_from(first, CHANNELS)
        wanted = inside[None, :, :] & (c < channels)
        value = tl.load(values + row[None, :, :] * channels + c, mask=wanted, other=0)
        total += value * tl.load(source[None, :, :] + c * channel_stride, mask=wanted, other=0).to(ACC)
        first += CHANNELS
    tl.store(out + place, tl.sum(total, axis=0), mask=here)


@checked(features="floating B C H W", labels="int32 B H W", weights="any B H W?", num_segments=0)
def segment_sum(features: Tensor, labels: Tensor, weights: Tensor | None, num_segments: int) -> tuple[Tensor, Tensor]:
    """sums [B,K,C] of weights * features over the pixels of each segment, and mass [B,K], the sums of the weights."""
    labels = labels.contiguous()
    if weights is not None:
        weights = weights.to(accumulation_dtype(features.dtype)).contiguous()
    sums, mass = sums_by_strip("weighted", features, labels, weights, None, extents(labels, num_segments))
    return join(sums), join(mass)


@checked(features="floating B C H W", labels="int32 B H W", num_segments=0)
def segment_max(features: Tensor, labels: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    """The maximum of every segment and channel, and the first pixel (y * W + x) that has it; 0 and -1 where empty."""
    pixels = labels.shape[1] * labels.shape[2]
    require(pixels <= INT32_MAX, f"features [B,C,H,W]: expected pixels within int32; found {pixels}")
    labels = labels.contiguous()
    return maxima(features, labels, extents(labels, num_segments))


@checked(labels="int32 B H W", values="floating B K C", weights="any B H W?")
def segment_gather(values: Tensor, labels: Tensor, weights: Tensor | None, channels_last: bool) -> Tensor:
    """out[b,c,y,x] = weights[b,y,x] * values[b, labels[b,y,x], c]; 0 where a pixel has no segment."""
    batch, height, width = labels.shape
    num_segments, channels = values.shape[1:]
    dtype = accumulation_dtype(values.dtype)
    out = torch.empty(
        (batch, channels, height, width),
        dtype=values.dtype,
        device=values.device,
        memory_format=image_format(channels_last),
    )
    tiles = tiles_of(batch, channels, height, width)
    launch(
        _gather_kernel,
        tiles.number,
        values,
        values.contiguous(),
        labels.contiguous(),
        None if weights is None else weights.to(dtype).contiguous(),
        out,
        channels,
        height,
        width,
        num_segments,
        *out.stride(),
        ACC=triton_dtype(dtype),
        CHANNELS=tiles.channels,
        ROWS=tiles.rows,
        COLUMNS=tiles.columns,
    )
    return out


@checked(features="floating B C H W", values="any B K C", labels="int32 B H W")
def segment_dot(values: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """out[b,y,x] = sum_c values[b, labels[b,y,x], c] * features[b,c,y,x]; 0 where a pixel has no segment."""
    batch, channels, height, width = features.shape
    dtype = accumulation_dtype(features.dtype)
    out = features.new_empty(batch, height, width, dtype=dtype)
    tiles = tiles_of(batch, channels, height, width)
    launch(
        _dot_kernel,
        tiles.number,
        features,
        values.to(dtype).contiguous(),
        features,
        labels.contiguous(),
        out,
        channels,
        height,
        width,
        values.shape[1],
        *features.stride(),
        ACC=triton_dtype(dtype),
        CHANNELS=tiles.channels,
        ROWS=tiles.rows,
        COLUMNS=tiles.columns,
    )
    return out
