"""Where segments lie, and how one program visits the pixels of some of them: tile by tile over their boxes."""

from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor

from ._language import cdiv, jit, next_power_of_2, tl
from ._launch import launch
from ._math import wide
from ._tiles import WORK, WORK_ON_GPU, image_tile, tiles_of

#: Rows of an image are shared out to several programs per segment from so many pixels on.
_STRIP_PIXELS = 1 << 14


@jit
def _extent_kernel(
    labels,  # [B,H,W]
    reach,  # int64 [B,K,4], -1 on entry
    tally,  # int64 [B,K,4], 0 on entry; or None
    height,
    width,
    num_segments,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One lane per pixel; the first and the last pixel of a run of one label along a row report to its segment.

    Whole numbers, so the order of the atomics does not matter. Reads 4 bytes per pixel; neighbours come from the cache.
    """
    image, y, x, here = image_tile(tl.program_id(0).to(tl.int64), height, width, ROWS, COLUMNS)
    pixel = y * width + x
    own = labels + image * height * width + pixel
    k = tl.load(own, mask=here, other=-1)
    before = tl.load(own - 1, mask=here & (x > 0), other=-1)
    after = tl.load(own + 1, mask=here & (x + 1 < width), other=-1)
    held = (k >= 0) & (k < num_segments)
    starts, ends = held & (before != k), held & (after != k)
    row = (image * num_segments + k) * 4
    column = x + y * 0  # as many as the pointers: the interpreter reads past the end of what it broadcasts
    tl.atomic_max(reach + row, wide(height) * width - 1 - pixel, mask=starts, sem="relaxed")
    tl.atomic_max(reach + row + 1, wide(width) - 1 - column, mask=starts, sem="relaxed")
    tl.atomic_max(reach + row + 2, pixel, mask=ends, sem="relaxed")
    tl.atomic_max(reach + row + 3, column, mask=ends, sem="relaxed")
    if tally is not None:
        # What a run adds is a difference between its two ends.
        number = tl.where(ends, x + 1, 0) - tl.where(starts, x, 0)
        columns = tl.where(ends, (x + 1) * x // 2, 0) - tl.where(starts, x * (x - 1) // 2, 0)
        tl.atomic_add(tally + row, number, mask=starts | ends, sem="relaxed")
        tl.atomic_add(tally + row + 1, y * number, mask=starts | ends, sem="relaxed")
        tl.atomic_add(tally + row + 2, columns, mask=starts | ends, sem="relaxed")
        above = tl.load(own - width, mask=here & (y > 0), other=-1)
        below = tl.load(own + width, mask=here & (y + 1 < height), other=-1)
        borders = _borders(k, before, num_segments) + _borders(k, after, num_segments)
        borders += _borders(k, above, num_segments) + _borders(k, below, num_segments)
        tl.atomic_add(tally + row + 3, borders.to(tl.int64), mask=held & (borders > 0), sem="relaxed")


@jit
def _borders(k, other, num_segments):
    """1 where a neighbour lies in another segment; none where it has no segment."""
    return ((other != k) & (other >= 0) & (other < num_segments)).to(tl.int32)


def extents(labels: Tensor, num_segments: int, tally: Tensor | None = None) -> Tensor:
    """How far segments reach, int64 [B,K,4]: pixels behind their first and columns right of their leftmost pixel, last
    pixel, rightmost column; -1 where empty. `tally` [B,K,4] gets the number of pixels, the sums of their y and x, and
    the number of borders to other segments added. labels [B,H,W] is dense.
    """
    batch, height, width = labels.shape
    reach = labels.new_full((batch, num_segments, 4), -1, dtype=torch.int64)
    tiles = tiles_of(batch, 2, height, width)  # a pixel has two neighbours in hand
    launch(
        _extent_kernel,
        tiles.number if num_segments > 0 else 0,
        labels,
        labels,
        reach,
        tally,
        height,
        width,
        num_segments,
        ROWS=tiles.rows,
        COLUMNS=tiles.columns,
    )
    return reach


class Walk(NamedTuple):
    """A program takes some segments, channels and one strip of rows; in each box a tile of pixels at a time."""

    programs: int
    strips: int
    strip_rows: int
    blocks: int  # of channels
    segments: int
    channels: int
    rows: int
    columns: int


def walk_over(batch: int, channels: int, height: int, width: int, num_segments: int) -> Walk:
    """By shapes alone: tiles as large as a box of an average segment, strips as long as partial results stay small."""
    pixels = height * width
    strips = max(min(pixels // _STRIP_PIXELS, pixels // (16 * max(num_segments, 1))), 1)
    side = next_power_of_2(max(isqrt(pixels // max(num_segments, 1)), 1))
    at_once = min(next_power_of_2(max(channels, 1)), 32)
    columns = min(max(2 * side, 16), 32)
    rows = min(max(side, 4), WORK_ON_GPU // (at_once * columns))
    together = min(next_power_of_2(max(batch * num_segments, 1)), max(WORK // (at_once * rows * columns), 1))
    blocks = max(cdiv(channels, at_once), 1)
    programs = cdiv(batch * num_segments, together) * strips * blocks
    return Walk(programs, strips, cdiv(height, strips), blocks, together, at_once, rows, columns)


@jit
def walked_by(program, blocks, strips, num_segments, segments, SEGMENTS: tl.constexpr, CHANNELS: tl.constexpr):
    """What a program takes: channels [CHANNELS], a strip, rows of [B,K] [SEGMENTS] and which of these exist."""
    segment = program // blocks // strips * SEGMENTS + tl.arange(0, SEGMENTS)
    channel = program % blocks * CHANNELS + tl.arange(0, CHANNELS)
    return channel, program // blocks % strips, segment, segment < segments


@jit
def first_pixel(reach, segment, exists, height, width):
    """The first pixel of a segment in raster order; H W where it is empty."""
    return wide(height) * width - 1 - tl.load(reach + segment * 4, mask=exists, other=-1)


@jit
def box_of(reach, segment, exists, strip, strip_rows, height, width):
    """Inclusive box (top, left, bottom, right) of a segment within a strip of rows; right < left where it is empty."""
    divisor = tl.maximum(wide(width), 1)
    top = first_pixel(reach, segment, exists, height, width) // divisor
    left = wide(width) - 1 - tl.load(reach + segment * 4 + 1, mask=exists, other=-1)
    bottom = tl.load(reach + segment * 4 + 2, mask=exists, other=-1) // divisor
    right = tl.load(reach + segment * 4 + 3, mask=exists, other=-1)
    return tl.maximum(top, strip * strip_rows), left, tl.minimum(bottom, (strip + 1) * strip_rows - 1), right


@jit
def steps_over(top, left, bottom, right, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Tiles across each box [SEGMENTS], at least one, and the tiles of the largest."""
    across = tl.maximum(right - left + COLUMNS, COLUMNS) // COLUMNS
    down = tl.maximum(bottom - top + ROWS, 0) // ROWS
    return across, tl.max((across * down).to(tl.int32), axis=0)


@jit
def tile_of_box(step, across, top, left, bottom, right, row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Corner (y, x) [SEGMENTS] of tile number `step` of each box, and which of its pixels lie inside
    [SEGMENTS,PIXELS]; row and column [PIXELS] are those within a tile.
    """
    y = top + step // across * ROWS
    x = left + step % across * COLUMNS
    inside = (y[:, None] + row[None, :] <= bottom[:, None]) & (x[:, None] + column[None, :] <= right[:, None])
    return y, x, inside
