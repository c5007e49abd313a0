"""Mean features of components: of rows' runs, of strips' parts, of components, each summed in raster order."""

import torch
from torch import Tensor

from .._checks import accumulation_dtype
from ._components_label import BLOCK, pixels_of_program
from ._language import cdiv, jit, tl, triton_dtype
from ._launch import launch

#: What is no run that is summed; the keys of runs are (pixel of the component, place of the part in 30 bits).
NO_KEY = tl.constexpr(2**63 - 1)
#: Channels that a lane sums at once.
CHANNELS = 4


@jit
def _run_sum_kernel(
    features,  # [B,C,H,W] by its strides
    component,  # [B,H,W]
    part,  # [B,H,W]
    wanted,  # [B,H,W] 1 for a component whose mean is needed
    sums,  # [B,H,W,C] at the first pixel of each run
    keys,  # [B,H,W]
    channels,
    width,
    pixels,  # H W
    total,  # B H W
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    ACC: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One lane per pixel, of which the first of a run goes along it. Reads C features per pixel that is wanted."""
    at, here, base, place = pixels_of_program(pixels, total, BLOCK)
    x = place % width
    own = tl.load(component + at, mask=here, other=-1)
    left = tl.load(component + at - 1, mask=here & (x > 0), other=-1)
    begins = (own >= 0) & (own != left)
    begins = begins & (tl.load(wanted + base + own, mask=begins, other=0) != 0)
    of_part = tl.load(part + at, mask=begins, other=0)
    tl.store(keys + at, tl.where(begins, ((base + own) << 30) + of_part, NO_KEY), mask=here)
    source = features + at // pixels * image_stride + (place // width).to(tl.int64) * row_stride
    first = 0
    while first < channels:
        channel = first + tl.arange(0, CHANNELS).to(tl.int64)[None, :]
        sum = tl.zeros([BLOCK, CHANNELS], tl.float64)
        goes, column = begins, x.to(tl.int64)
        while tl.max(goes.to(tl.int32), 0) > 0:
            value = source + column * column_stride
            exists = goes[:, None] & (channel < channels)
            sum += tl.load(value[:, None] + channel * channel_stride, mask=exists, other=0).to(ACC).to(tl.float64)
            column += 1
            goes = goes & (column < width)
            goes = goes & (tl.load(component + at - x + column, mask=goes, other=-1) == own)
        tl.store(sums + at[:, None] * channels + channel, sum, mask=begins[:, None] & (channel < channels))
        first += CHANNELS


@jit
def _fold_kernel(
    sums,  # [B,H,W,C]
    keys,  # [B H W], sorted
    order,  # [B H W] the pixel of each key
    lengths,  # [B H W] number of runs of the part that begins there
    size,  # [B,H,W]
    channels,
    total,  # B H W
    WHOLE: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One lane per key, of which the first of a part adds up its runs, or of a component (WHOLE) its parts to a mean.

    The sum replaces that of the first run, whose pixel is the root. Reads 16 bytes per pixel, and 8 C per run or part.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < total
    SHIFT: tl.constexpr = 30 if WHOLE else 0
    key = tl.load(keys + at, mask=here, other=NO_KEY)
    before = tl.load(keys + at - 1, mask=here & (at > 0), other=NO_KEY)
    begins = (key != NO_KEY) & (key >> SHIFT != before >> SHIFT)
    root = tl.load(order + at, mask=begins, other=0)
    first = 0
    while first < channels:
        channel = first + tl.arange(0, CHANNELS).to(tl.int64)[None, :]
        sum = tl.zeros([BLOCK, CHANNELS], tl.float64)
        goes, next = begins, at
        while tl.max(goes.to(tl.int32), 0) > 0:
            source = tl.load(order + next, mask=goes, other=0)
            exists = goes[:, None] & (channel < channels)
            sum += tl.load(sums + source[:, None] * channels + channel, mask=exists, other=0)
            if WHOLE:
                next += tl.load(lengths + next, mask=goes, other=0)
            else:
                next += goes.to(tl.int64)
            goes = goes & (next < total)
            goes = goes & (tl.load(keys + next, mask=goes, other=NO_KEY) >> SHIFT == key >> SHIFT)
        if WHOLE:
            sum = sum / tl.load(size + root, mask=begins, other=1).to(tl.float64)[:, None]
        else:
            tl.store(lengths + at, (next - at).to(tl.int32), mask=begins)
        tl.store(sums + root[:, None] * channels + channel, sum, mask=begins[:, None] & (channel < channels))
        first += CHANNELS


def component_means(features: Tensor | None, part: Tensor, component: Tensor, size: Tensor, wanted: Tensor) -> Tensor:
    """float64 [B,H,W,C]: at the roots of the components that are wanted, their mean features; C = 0 without."""
    batch, height, width = component.shape
    channels = 0 if features is None else features.shape[1]
    means = component.new_empty(batch, height, width, channels, dtype=torch.float64)
    if features is None or channels == 0:
        return means
    pixels, total = height * width, component.numel()
    keys = torch.empty_like(component, dtype=torch.int64)
    programs = cdiv(total, BLOCK)
    launch(
        _run_sum_kernel,
        programs,
        features,
        features,
        component,
        part,
        wanted,
        means,
        keys,
        channels,
        width,
        pixels,
        total,
        *features.stride(),
        ACC=triton_dtype(accumulation_dtype(features.dtype)),
        CHANNELS=CHANNELS,
        BLOCK=BLOCK,
    )
    keys, order = keys.flatten().sort(stable=True)
    lengths = torch.empty_like(order, dtype=torch.int32)
    for whole in (False, True):
        runs = (means, keys, order, lengths, size, channels, total)
        launch(_fold_kernel, programs, features, *runs, WHOLE=whole, CHANNELS=CHANNELS, BLOCK=BLOCK)
    return means
