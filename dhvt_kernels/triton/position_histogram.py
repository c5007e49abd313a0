"""The share of each segment's pixels in each cell of a grid."""

import torch
from torch import Tensor

from ._checked import checked
from ._language import cdiv, jit, next_power_of_2, tl
from ._launch import launch
from ._math import divide, wide
from ._tiles import WORK, image_tile, tiles_of


@jit
def _true_size(sizes, i, full):
    """The true height or width of an image, in [0, full]; full where there are no sizes."""
    if sizes is None:
        return wide(full)
    else:
        return tl.minimum(tl.maximum(tl.load(sizes + i).to(tl.int64), 0), wide(full))


@jit
def _count_kernel(
    labels,  # [B,H,W]
    sizes,  # [B,2], or None
    counts,  # [B,K,gh,gw], 0 on entry
    height,
    width,
    num_segments,
    grid_height,
    grid_width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One lane per pixel; a run of one label and cell along a row adds its end and takes away its start.

    Whole numbers, so the order of the atomics does not matter. Reads 4 bytes per pixel; neighbours come from the cache.
    """
    image, y, x, here = image_tile(tl.program_id(0).to(tl.int64), height, width, ROWS, COLUMNS)
    true_height, true_width = _true_size(sizes, 2 * image, height), _true_size(sizes, 2 * image + 1, width)
    inside = here & (y < true_height) & (x < true_width)
    down = y * grid_height // tl.maximum(true_height, 1)
    across = x * grid_width // tl.maximum(true_width, 1)
    rest = x * grid_width - across * true_width  # below the number of cells in the first pixel of a cell
    own = labels + (image * height + y) * width + x
    k = tl.load(own, mask=inside, other=-1)
    before = tl.load(own - 1, mask=inside & (x > 0), other=-1)
    after = tl.load(own + 1, mask=inside & (x + 1 < true_width), other=-1)
    held = (k >= 0) & (k < num_segments)
    starts = held & ((before != k) | (rest < grid_width))
    ends = held & ((after != k) | (rest + grid_width >= true_width))
    number = tl.where(ends, x + 1, 0) - tl.where(starts, x, 0)
    cell = (image * num_segments + k) * grid_height + down
    tl.atomic_add(counts + cell * grid_width + across, number.to(tl.int32), mask=starts | ends, sem="relaxed")


@jit
def _share_kernel(
    counts,  # [B K,size]
    shares,  # [B K,size]
    segments,
    size,  # cells of the grid
    SEGMENTS: tl.constexpr,
    CELLS: tl.constexpr,
):
    """One program per SEGMENTS segments; reads the counts twice, from the cache."""
    segment = tl.program_id(0).to(tl.int64) * SEGMENTS + tl.arange(0, SEGMENTS)[:, None]
    total = tl.zeros([SEGMENTS, CELLS], tl.int32)
    first = 0
    while first < size:
        cell = wide(first) + tl.arange(0, CELLS)[None, :]
        total += tl.load(counts + segment * size + cell, mask=(segment < segments) & (cell < size), other=0)
        first += CELLS
    divisor = tl.maximum(tl.sum(total, axis=1), 1).to(tl.float32)[:, None]
    first = 0
    while first < size:
        cell = wide(first) + tl.arange(0, CELLS)[None, :]
        here = (segment < segments) & (cell < size)
        number = tl.load(counts + segment * size + cell, mask=here, other=0).to(tl.float32)
        tl.store(shares + segment * size + cell, divide(number, tl.broadcast_to(divisor, number.shape)), mask=here)
        first += CELLS


@checked(labels="int32 B H W", sizes="int32 B 2?", num_segments=0, grid_height=1, grid_width=1)
def position_histogram(
    labels: Tensor, sizes: Tensor | None, num_segments: int, grid_height: int, grid_width: int
) -> Tensor:
    """out[b,k,gy,gx] = pixels of k with y * gh // height == gy and x * gw // width == gx, over all pixels of k."""
    batch, height, width = labels.shape
    segments, cells = batch * num_segments, grid_height * grid_width
    counts = labels.new_zeros(batch, num_segments, grid_height, grid_width)
    tiles = tiles_of(batch, 2, height, width)  # a pixel has two neighbours in hand
    launch(
        _count_kernel,
        tiles.number if num_segments > 0 else 0,
        labels,
        labels.contiguous(),
        None if sizes is None else sizes.contiguous(),
        counts,
        height,
        width,
        num_segments,
        grid_height,
        grid_width,
        ROWS=tiles.rows,
        COLUMNS=tiles.columns,
    )
    shares = torch.empty_like(counts, dtype=torch.float32)
    at_once = min(next_power_of_2(cells), 1 << 10)
    together = max(min(next_power_of_2(max(segments, 1)), WORK // at_once), 1)
    launch(
        _share_kernel,
        cdiv(segments, together),
        labels,
        counts,
        shares,
        segments,
        cells,
        SEGMENTS=together,
        CELLS=at_once,
    )
    return shares
