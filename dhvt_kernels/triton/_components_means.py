"""Mean features of components: of rows' runs, of strips' parts, of components, each summed in raster order.

Runs are sorted by component and part, so that the runs of a part, and the parts of a component, follow one another.
"""

import torch
from torch import Tensor

from .._checks import accumulation_dtype
from ._components_label import BLOCK, WARPS, launch_pixels, pixels_of_program
from ._lanes import lanes
from ._language import cdiv, jit, next_power_of_2, tl, triton_dtype
from ._launch import launch

#: The key of what is no run that is summed; those of runs are (pixel of the component, place of the part in 30 bits).
NO_KEY = tl.constexpr(2**63 - 1)
#: Channels that a lane sums at once, at most.
CHANNELS = 4


@jit
def _key_kernel(
    component,  # [B,H,W]
    part,  # [B,H,W]
    wanted,  # [B,H,W] 1 for a component whose mean is needed
    keys,  # [B,H,W]
    width,
    pixels,  # H W
    total,  # B H W
    BLOCK: tl.constexpr,
):
    """One lane per pixel: reads 4 bytes, 4 more where runs begin, and writes 8."""
    at, here, base, place = pixels_of_program(pixels, total, BLOCK)
    own = tl.load(component + at, mask=here, other=-1)
    left = tl.load(component + at - 1, mask=here & (place % width > 0), other=-1)
    begins = (own >= 0) & (own != left)
    begins = begins & (tl.load(wanted + base + own, mask=begins, other=0) != 0)
    of_part = tl.load(part + at, mask=begins, other=0)
    tl.store(keys + at, tl.where(begins, ((base + own) << 30) + of_part, NO_KEY), mask=here)


@jit
def _mark_kernel(
    keys,  # [B H W], sorted
    first,  # [2,B H W] 1 where a part, a component begins
    total,  # B H W
    BLOCK: tl.constexpr,
):
    """One lane per key: reads 8 bytes and writes 8."""
    at, here = lanes(total, BLOCK)
    key = tl.load(keys + at, mask=here, other=NO_KEY)
    before = tl.load(keys + at - 1, mask=here & (at > 0), other=NO_KEY)
    tl.store(first + at, ((key != NO_KEY) & (key != before)).to(tl.int32), mask=here)
    tl.store(first + total + at, ((key != NO_KEY) & (key >> 30 != before >> 30)).to(tl.int32), mask=here)


@jit
def _list_kernel(
    keys,  # [B H W], sorted
    order,  # [B H W] the pixel of each key
    rank,  # [2,B H W] parts and components up to a key
    begin,  # [2,B H W + 1] run at which a part begins, part at which a component begins, and where the last one ends
    pixel_of,  # [B H W] the first pixel of each part
    total,  # B H W
    BLOCK: tl.constexpr,
):
    """One lane per key: reads 16 bytes, and 8 more for each run."""
    at, here = lanes(total, BLOCK)
    key = tl.load(keys + at, mask=here, other=NO_KEY)
    before = tl.load(keys + at - 1, mask=here & (at > 0), other=NO_KEY)
    after = tl.load(keys + at + 1, mask=here & (at + 1 < total), other=NO_KEY)
    is_run = key != NO_KEY
    part = tl.load(rank + at, mask=is_run, other=0)
    component = tl.load(rank + total + at, mask=is_run, other=0)
    begins, of_component = is_run & (key != before), begin + total + 1 + component
    tl.store(pixel_of + part - 1, tl.load(order + at, mask=begins, other=0), mask=begins)
    tl.store(begin + part - 1, at.to(tl.int32), mask=begins)
    tl.store(of_component - 1, part - 1, mask=is_run & (key >> 30 != before >> 30))
    ends = is_run & (after == NO_KEY)
    tl.store(begin + part, (at + 1).to(tl.int32), mask=ends)
    tl.store(of_component, part, mask=ends)


@jit
def _run_sum_kernel(
    features,  # [B,C,H,W] by its strides
    component,  # [B,H,W]
    keys,  # [B H W], sorted
    order,  # [B H W] the pixel of each key
    sums,  # [B,H,W,C] at the first pixel of each run
    channels,
    width,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    pixels,  # H W
    total,  # B H W
    ACC: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One lane per key, which goes along its run. Reads 8 bytes per pixel, and C features of what is wanted."""
    index, here = lanes(total, BLOCK)
    is_run = tl.load(keys + index, mask=here, other=NO_KEY) != NO_KEY
    at = tl.load(order + index, mask=is_run, other=0)
    own = tl.load(component + at, mask=is_run, other=-1)
    row, x = at // width, at % width
    source = features + at // pixels * image_stride + at % pixels // width * row_stride
    first = 0
    while first < channels:
        channel = first + tl.arange(0, CHANNELS).to(tl.int64)[None, :]
        sum = tl.zeros([BLOCK, CHANNELS], tl.float64)
        goes, column = is_run, x
        while tl.max(goes.to(tl.int32), 0) > 0:
            value = source + column * column_stride
            exists = goes[:, None] & (channel < channels)
            sum += tl.load(value[:, None] + channel * channel_stride, mask=exists, other=0).to(ACC).to(tl.float64)
            column += 1
            goes = goes & (column < width)
            goes = goes & (tl.load(component + row * width + column, mask=goes, other=-1) == own)
        tl.store(sums + at[:, None] * channels + channel, sum, mask=is_run[:, None] & (channel < channels))
        first += CHANNELS


@jit
def _fold_kernel(
    sums,  # [B,H,W,C]
    pixel_of,  # [B H W] where the sum of each item lies
    begin,  # [B H W + 1] the first item of each group
    groups,  # [1] their number
    size,  # [B,H,W]
    channels,
    MEAN: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One lane per group of items: runs of a part, or parts of a component, whose mean it is (MEAN).

    The sum replaces that of the first item, whose pixel is the group's root. Reads 8 (C + 1) bytes per item.
    """
    group, here = lanes(tl.load(groups), BLOCK)
    start = tl.load(begin + group, mask=here, other=0)
    end = tl.load(begin + group + 1, mask=here, other=0)
    root = tl.load(pixel_of + start, mask=here, other=0)
    first = 0
    while first < channels:
        channel = first + tl.arange(0, CHANNELS).to(tl.int64)[None, :]
        sum = tl.zeros([BLOCK, CHANNELS], tl.float64)
        item = start
        while tl.max((item < end).to(tl.int32), 0) > 0:
            goes = item < end
            source = tl.load(pixel_of + item, mask=goes, other=0)
            exists = goes[:, None] & (channel < channels)
            sum += tl.load(sums + source[:, None] * channels + channel, mask=exists, other=0)
            item += 1
        if MEAN:
            sum = sum / tl.load(size + root, mask=here, other=1).to(tl.float64)[:, None]
        tl.store(sums + root[:, None] * channels + channel, sum, mask=here[:, None] & (channel < channels))
        first += CHANNELS


def component_means(features: Tensor | None, part: Tensor, component: Tensor, size: Tensor, wanted: Tensor) -> Tensor:
    """float64 [B,H,W,C]: at the roots of the components that are wanted, their mean features; C = 0 without."""
    batch, height, width = component.shape
    channels = 0 if features is None else features.shape[1]
    sums = component.new_empty(batch, height, width, channels, dtype=torch.float64)
    if features is None or channels == 0:
        return sums
    total = component.numel()
    programs = cdiv(total, BLOCK)
    keys = torch.empty_like(component, dtype=torch.int64)
    launch_pixels(_key_kernel, component, component, part, wanted, keys, width)
    keys, order = keys.flatten().sort(stable=True)
    first = component.new_empty(2, total)
    launch(_mark_kernel, programs, features, keys, first, total, BLOCK=BLOCK, warps=WARPS)
    rank = torch.empty_like(first)
    for level in range(2):  # not at once: torch sums rows with one block of threads each
        torch.cumsum(first[level], 0, dtype=torch.int32, out=rank[level])
    begin, pixel_of = component.new_empty(2, total + 1), torch.empty_like(order)
    launch(_list_kernel, programs, features, keys, order, rank, begin, pixel_of, total, BLOCK=BLOCK, warps=WARPS)
    at_once = min(CHANNELS, next_power_of_2(channels))
    launch_pixels(
        _run_sum_kernel,
        component,
        features,
        component,
        keys,
        order,
        sums,
        channels,
        width,
        *features.stride(),
        ACC=triton_dtype(accumulation_dtype(features.dtype)),
        CHANNELS=at_once,
    )
    for level, items in enumerate((order, pixel_of)):
        launch(
            _fold_kernel,
            programs,
            features,
            sums,
            items,
            begin[level],
            rank[level, -1:],
            size,
            channels,
            MEAN=level == 1,
            CHANNELS=at_once,
            BLOCK=BLOCK,
            warps=WARPS,
        )
    return sums
