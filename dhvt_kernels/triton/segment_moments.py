"""Statistics of every segment, and the derivative of mean and m2.

Whole numbers come from the ends of runs, by atomics. Features are read twice: for the mean, as differences from the
first pixel of the segment, and for the squared deviations from it; so a large offset of the features costs no accuracy.
"""

import torch
from torch import Tensor

from .._checks import accumulation_dtype
from .._layout import empty_image_like
from ._checked import checked
from ._lanes import lanes
from ._language import cdiv, jit, next_power_of_2, tl, triton_dtype
from ._launch import launch
from ._math import divide, wide
from ._segment_sum import join, sums_by_strip
from ._segments import box_of, extents, first_pixel
from ._tiles import WORK, channels_from, image_tile, row_of_pixel, tiles_of


@jit
def _describe_kernel(
    features,  # [B,C,H,W] by its strides
    reach,  # [B,K,4]
    tally,  # [B,K,4]
    differences,  # [strips,B,K,C]
    count,  # [B,K]
    mean,  # [B,K,C]
    centroid,  # [B,K,2]
    box,  # [B,K,4]
    boundary,  # [B,K]
    channels,
    height,
    width,
    num_segments,
    segments,  # B K
    strips,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    ACC: tl.constexpr,
    SEGMENTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program per SEGMENTS segments: what the sums and extents say of them. Reads and writes each number once."""
    segment, exists = lanes(segments, SEGMENTS)
    number = tl.load(tally + segment * 4, mask=exists, other=0)
    held = exists & (number > 0)
    tl.store(count + segment, number.to(tl.int32), mask=exists)
    tl.store(boundary + segment, tl.load(tally + segment * 4 + 3, mask=exists).to(tl.int32), mask=exists)
    size = tl.maximum(number, 1)
    for axis in tl.static_range(2):
        position = tl.load(tally + segment * 4 + 1 + axis, mask=exists, other=0).to(tl.float64) / size.to(tl.float64)
        tl.store(centroid + segment * 2 + axis, position.to(ACC), mask=exists)
    top, left, bottom, right = box_of(reach, segment, exists, 0, height, height, width)
    tl.store(box + segment * 4, tl.where(held, top, 0).to(tl.int32), mask=exists)
    tl.store(box + segment * 4 + 1, tl.where(held, left, 0).to(tl.int32), mask=exists)
    tl.store(box + segment * 4 + 2, tl.where(held, bottom, -1).to(tl.int32), mask=exists)
    tl.store(box + segment * 4 + 3, tl.where(held, right, -1).to(tl.int32), mask=exists)
    place = first_pixel(reach, segment, exists, height, width)
    y, x = place // tl.maximum(wide(width), 1), place % tl.maximum(wide(width), 1)
    pixel = segment // num_segments * image_stride + y * row_stride + x * column_stride
    first = 0
    while first < channels:
        channel = wide(first) + tl.arange(0, CHANNELS)[None, :]
        wanted = exists[:, None] & (channel < channels)
        table = segment[:, None] * channels + channel
        total = tl.zeros([SEGMENTS, CHANNELS], ACC)
        strip = 0
        while strip < strips:
            total += tl.load(differences + wide(strip) * segments * channels + table, mask=wanted, other=0)
            strip += 1
        source = features + pixel[:, None] + channel * channel_stride
        origin = tl.load(source, mask=wanted & held[:, None], other=0).to(ACC)
        of_mean = origin + divide(total, tl.broadcast_to(size.to(ACC)[:, None], [SEGMENTS, CHANNELS]))
        tl.store(mean + table, of_mean, mask=wanted)
        first += CHANNELS


@checked(labels="int32 B H W", features="floating B C H W", num_segments=0)
def segment_moments(
    features: Tensor, labels: Tensor, num_segments: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Count, mean, sum of squared deviations, centroid, box and boundary length of every segment."""
    batch, channels, height, width = features.shape
    dtype = accumulation_dtype(features.dtype)
    labels = labels.contiguous()
    tally = labels.new_zeros((batch, num_segments, 4), dtype=torch.int64)
    reach = extents(labels, num_segments, tally)
    differences, _ = sums_by_strip("differences", features, labels, None, None, reach)
    count = labels.new_empty(batch, num_segments)
    mean = differences.new_empty(batch, num_segments, channels)
    centroid = mean.new_empty(batch, num_segments, 2)
    box = labels.new_empty(batch, num_segments, 4)
    boundary = torch.empty_like(count)
    at_once = min(next_power_of_2(max(channels, 1)), 32)
    together = min(next_power_of_2(max(count.numel(), 1)), WORK // at_once)
    launch(
        _describe_kernel,
        cdiv(count.numel(), together),
        features,
        features,
        reach,
        tally,
        differences,
        count,
        mean,
        centroid,
        box,
        boundary,
        channels,
        height,
        width,
        num_segments,
        count.numel(),
        differences.shape[0],
        *features.stride(),
        ACC=triton_dtype(dtype),
        SEGMENTS=together,
        CHANNELS=at_once,
    )
    squares, _ = sums_by_strip("squares", features, labels, None, mean, reach)
    return count, mean, join(squares), centroid, box, boundary


@jit
def _moments_backward_kernel(
    grad_mean,  # [B,K,C]
    grad_m2,  # [B,K,C]
    features,  # [B,C,H,W] by its strides
    labels,  # [B,H,W]
    count,  # [B,K]
    mean,  # [B,K,C]
    out,  # [B,C,H,W] by its strides
    channels,
    height,
    width,
    num_segments,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    out_image_stride,
    out_channel_stride,
    out_row_stride,
    out_column_stride,
    ACC: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program per tile of pixels: 4 + b C bytes in per pixel, b C out; the tables' rows come from the caches."""
    image, y, x, here = image_tile(tl.program_id(0).to(tl.int64), height, width, ROWS, COLUMNS)
    row, _, inside = row_of_pixel(labels, image, y, x, here, height, width, num_segments)
    number = tl.load(count + row, mask=inside, other=1).to(ACC)
    source = features + image * image_stride + y * row_stride + x * column_stride
    target = out + image * out_image_stride + y * out_row_stride + x * out_column_stride
    first = 0
    while first < channels:
        c = channels_from(first, CHANNELS)
        wanted = inside[None, :, :] & (c < channels)
        table = row[None, :, :] * channels + c
        own = tl.load(source[None, :, :] + c * channel_stride, mask=wanted, other=0).to(ACC)
        slope = tl.load(grad_m2 + table, mask=wanted, other=0)
        deviation = own - tl.load(mean + table, mask=wanted, other=0)
        spread = tl.where(slope != 0, 2 * slope * deviation, 0)  # no gradient gives none, even to NaN
        of_mean = tl.load(grad_mean + table, mask=wanted, other=0)
        grad = divide(of_mean, tl.broadcast_to(number[None, :, :], table.shape)) + spread
        tl.store(target[None, :, :] + c * out_channel_stride, grad, mask=here[None, :, :] & (c < channels))
        first += CHANNELS


@checked(
    labels="int32 B H W",
    features="floating B C H W",
    count="int32 B K",
    mean="sum B K C",
    grad_mean="sum B K C",
    grad_m2="sum B K C",
)
def segment_moments_backward(
    grad_mean: Tensor, grad_m2: Tensor, features: Tensor, labels: Tensor, count: Tensor, mean: Tensor
) -> Tensor:
    """grad_mean / n + 2 grad_m2 (f - mean), each of the pixel's segment; 0 where a pixel has none."""
    batch, channels, height, width = features.shape
    out = empty_image_like(features, features.dtype)
    tiles = tiles_of(batch, channels, height, width)
    launch(
        _moments_backward_kernel,
        tiles.number,
        features,
        grad_mean.contiguous(),
        grad_m2.contiguous(),
        features,
        labels.contiguous(),
        count.contiguous(),
        mean.contiguous(),
        out,
        channels,
        height,
        width,
        count.shape[1],
        *features.stride(),
        *out.stride(),
        ACC=triton_dtype(mean.dtype),
        CHANNELS=tiles.channels,
        ROWS=tiles.rows,
        COLUMNS=tiles.columns,
    )
    return out
