"""Soft clustering: iterations of assignment and update, from the cells' means."""

import torch
from torch import Tensor

from ._checked import checked
from ._language import jit, tl
from ._launch import launch
from ._math import divide
from ._soft import (
    Job,
    grid_of,
    label_pixels,
    load_four,
    locate,
    middle_of,
    offsets_of,
    place_of,
    position,
    read_metric,
    score_pixels,
    share_pixels,
    takes_part,
)
from ._soft_sums import centers_of, gather, store_own, store_relative_sums


@jit
def _means_kernel(
    coefficients,  # [2]
    cell,
    height,
    width,
    side,
    patches,
    features,  # [B,C,H,W] by its strides
    mask,  # [B,H,W] or None
    channels,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    sums,  # [C+3,9,patches]
    ACC: tl.constexpr,
    GROUP: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Sums of 1, features and positions, relative to 0 and to the middle of the cell, for the own centre only. A
    program per GROUP patches; reads b C bytes per pixel, the second time from the caches."""
    here = locate(height, width, side, patches, mask, GROUP, PIXELS)
    at = features + offsets_of(here, image_stride, row_stride, column_stride)
    squares = tl.zeros([GROUP, PIXELS], ACC)
    c = 0
    while c < channels:
        values = load_four(at, c, channels, channel_stride, here.inside, ACC)
        for i in tl.static_range(4):
            squares += values[i] * values[i]
        c += 4
    used = here.inside & takes_part(squares)
    store_own(sums, 0, patches, here.patch, tl.sum(used.to(ACC), 1))
    c = 0
    while c < channels:
        values = load_four(at, c, channels, channel_stride, used, ACC)
        for i in tl.static_range(4):
            if c + i < channels:
                store_own(sums, c + i + 1, patches, here.patch, tl.sum(values[i], 1))
        c += 4
    down = position(here, 0, middle_of(here.row, side, height, ACC))
    right = position(here, 1, middle_of(here.column, side, width, ACC))
    store_own(sums, channels + 1, patches, here.patch, tl.sum(tl.where(used, down, 0), 1))
    store_own(sums, channels + 2, patches, here.patch, tl.sum(tl.where(used, right, 0), 1))


@jit
def _sums_kernel(
    coefficients,  # [2]
    cell,
    height,
    width,
    side,
    patches,
    features,  # [B,C,H,W] by its strides
    mask,  # [B,H,W] or None
    channels,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    centers,  # [B,L,C]
    positions,  # [B,L,2]
    mass,  # [B,L]
    sums,  # [C+3,9,patches]
    ACC: tl.constexpr,
    GROUP: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Sums of 1, features and positions relative to the nine candidates, weighted by the shares. A program per GROUP
    patches; reads b C bytes per pixel, the second time from the caches, and leaves 9 (C + 3) sums per patch."""
    here, around, at, used, score = score_pixels(
        coefficients, cell, height, width, side, patches, features, mask, channels, image_stride, channel_stride,
        row_stride, column_stride, centers, positions, mass, ACC, GROUP, PIXELS,
    )  # fmt: skip
    metric = read_metric(coefficients, cell, ACC)
    share, own_share = share_pixels(score, around, used, metric.inverse_temperature)
    store_relative_sums(
        sums, here, around, patches, share, own_share, at, used, channels, channel_stride, centers, positions
    )


@jit
def _state_kernel(
    height,
    width,
    side,
    patches,
    sums,  # [C+3,9,patches]
    cells,  # B L
    channels,
    centers_before,  # [B,L,C]; None for the cells' means
    positions_before,  # [B,L,2]
    centers,  # [B,L,C]
    positions,  # [B,L,2]
    mass,  # [B,L]
    PIXELS: tl.constexpr,
    PARTS: tl.constexpr,
    LANES: tl.constexpr,
):
    """A state from the sums relative to the one before. One lane per number of a centre; it reads nine sums for it, and
    nine for the mass. A centre without mass keeps its values."""
    row, at, exists = centers_of(cells, channels + 3, LANES)
    means: tl.constexpr = centers_before is None
    own_mass = gather(sums, row * 0, at, exists, height, width, side, patches, PIXELS, PARTS, means)
    total = gather(sums, row, at, exists, height, width, side, patches, PIXELS, PARTS, means)
    moved = tl.where(own_mass > 0, divide(total, tl.where(own_mass > 0, own_mass, 1)), 0)
    of_center, of_position = exists & (row > 0) & (row <= channels), exists & (row > channels)
    center, axis = at * channels + row - 1, at * 2 + row - 1 - channels
    if means:
        grid = grid_of(height, width, side)
        down = middle_of(at // grid.columns % grid.rows, side, height, moved.dtype)
        right = middle_of(at % grid.columns, side, width, moved.dtype)
        moved += tl.where(of_position, tl.where(row == channels + 1, down, right), 0)
    else:
        moved += tl.load(centers_before + center, mask=of_center, other=0)
        moved += tl.load(positions_before + axis, mask=of_position, other=0)
    tl.store(mass + at, own_mass, mask=exists & (row == 0))
    tl.store(centers + center, moved, mask=of_center)
    tl.store(positions + axis, moved, mask=of_position)


@jit
def _labels_kernel(
    coefficients,  # [2]
    cell,
    height,
    width,
    side,
    patches,
    features,  # [B,C,H,W] by its strides
    mask,  # [B,H,W] or None
    channels,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    centers,  # [B,L,C]
    positions,  # [B,L,2]
    mass,  # [B,L]
    labels,  # [B,H,W]
    ACC: tl.constexpr,
    GROUP: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """The nearest centre of each pixel. A program per GROUP patches; reads b C bytes per pixel and writes 4."""
    here, around, _at, used, score = score_pixels(
        coefficients, cell, height, width, side, patches, features, mask, channels, image_stride, channel_stride,
        row_stride, column_stride, centers, positions, mass, ACC, GROUP, PIXELS,
    )  # fmt: skip
    grid = grid_of(height, width, side)
    label = label_pixels(score, here, around, used, grid.columns)
    tl.store(labels + place_of(here, height, width), label, mask=here.there)


@checked(features="floating B C H W", mask="bool B H W?", coefficients="sum 2?", cell=1, iterations=0)
def soft_cluster(
    features: Tensor,
    mask: Tensor | None,
    coefficients: Tensor | None,
    cell: int,
    compactness: float,
    temperature: float,
    iterations: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centres [I+1,B,L,C], positions [I+1,B,L,2] and masses [I+1,B,L] of every iteration, and labels [B,H,W]."""
    job = Job(features, mask, coefficients, cell, compactness, temperature)
    batch, channels, height, width = features.shape
    states = (iterations + 1, batch, job.cells_per_image)
    centers, positions, mass = job.empty(*states, channels), job.empty(*states, 2), job.empty(*states)
    labels = features.new_empty(batch, height, width, dtype=torch.int32)
    sums = job.sums(channels + 3)

    def set_state(step: int, before: tuple[Tensor | None, Tensor | None]) -> None:
        state = (centers[step], positions[step], mass[step])
        programs = job.gathering(channels + 3)
        launch(_state_kernel, programs, sums, *job.geometry, sums, job.cells, channels, *before, *state, **job.centers)

    launch(_means_kernel, job.programs, features, *job.arguments, sums, **job.constants)
    set_state(0, (None, None))
    for step in range(iterations):
        state = (centers[step], positions[step], mass[step])
        launch(_sums_kernel, job.programs, features, *job.arguments, *state, sums, **job.constants)
        set_state(step + 1, state[:2])
    state = (centers[-1], positions[-1], mass[-1])
    launch(_labels_kernel, job.programs, features, *job.arguments, *state, labels, **job.constants)
    return centers, positions, mass, labels
