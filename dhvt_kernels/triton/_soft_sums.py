"""Sums over the pixels of centres, without atomics: of each patch for its nine candidates, then of each centre over the
patches around it, in a fixed order.

What is summed is a row of numbers per pixel; row 0 is 1, and its sum is that of the weights. Sums of patches are
[rows,9,patches].
"""

from torch import Tensor

from ._language import jit, tl, triton_dtype
from ._launch import launch
from ._math import divide
from ._soft import Job, differences, grid_of, other_candidates, parts_of, position, read_metric


@jit
def store_sums(sums, row, patches, patch, others, own):
    """The sums of a row: of the other candidates [G,8] and of the own one [G]."""
    at = sums + tl.cast(row, tl.int64) * 9 * patches + patch
    mask = (patch < patches)[:, None]
    tl.store(at[:, None] + other_candidates()[None, :] * tl.cast(patches, tl.int64), others, mask=mask)
    store_own(sums, row, patches, patch, own)


@jit
def store_own(sums, row, patches, patch, own):
    """The same, of the own candidate only."""
    tl.store(sums + (tl.cast(row, tl.int64) * 9 + 4) * patches + patch, own, mask=patch < patches)


@jit
def store_weights(sums, patches, patch, weight, own_weight):
    """The sums of weights, of other candidates [G,P,8] and of the own one [G,P]; returns those of the others [G,8]."""
    others = tl.sum(weight, 1)
    store_sums(sums, 0, patches, patch, others, tl.sum(own_weight, 1))
    return others


@jit
def _store_relative(sums, row, patches, patch, weight, own_weight, total, value, apart):
    """Sums of a number relative to the own centre, which become relative to each candidate; returns the part of this
    number in the sum of weight * score / 2. apart [8,G]"""
    apart = tl.trans(apart)
    others = tl.sum(weight * value[:, :, None], 1)
    store_sums(sums, row, patches, patch, others - apart * total, tl.sum(own_weight * value, 1))
    return tl.sum(apart * (others - 0.5 * apart * total))


@jit
def store_relative_sums(
    sums, here, around, patches, weight, own_weight, at, used, channels, channel_stride, centers, positions
):
    """Weighted sums of 1, features, y and x relative to each candidate, with weights of the other candidates [8,G,P]
    and of the own one [G,P]; returns the features' and the positions' part of the sum of weight * score / 2, the latter
    without kappa^2."""
    weight = tl.permute(weight, (1, 2, 0))  # so that few threads share a sum
    total = store_weights(sums, patches, here.patch, weight, own_weight)
    of_features = tl.zeros([], weight.dtype)
    of_positions = tl.zeros([], weight.dtype)
    c = 0
    while c < channels:
        base, apart = differences(centers, around, channels, c)
        value = tl.load(at + tl.cast(c, tl.int64) * channel_stride, mask=used, other=0).to(weight.dtype) - base[:, None]
        of_features += _store_relative(sums, c + 1, patches, here.patch, weight, own_weight, total, value, apart)
        c += 1
    for axis in tl.static_range(2):
        base, apart = differences(positions, around, 2, axis)
        value = position(here, axis, base)
        of_positions += _store_relative(
            sums, channels + 1 + axis, patches, here.patch, weight, own_weight, total, value, apart
        )
    return of_features, of_positions


@jit
def centers_of(cells, rows, LANES: tl.constexpr):
    """The row of each of this program's lanes, its centre among those of the batch, and whether there is such a row."""
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    return lane // cells, lane % cells, lane // cells < rows


@jit
def gather(
    sums,
    row,
    at,
    exists,
    height,
    width,
    side,
    patches,
    PIXELS: tl.constexpr,
    PARTS: tl.constexpr,
    OWN: tl.constexpr,
):
    """The sums of rows for centres `at`, from the patches of the cells around them, or of their own cell only."""
    grid = grid_of(height, width, side)
    parts = parts_of(height, width, side, PIXELS)
    k = tl.arange(0, 16)[:, None]
    down, right = k // 3 - 1, k % 3 - 1
    r, c = (at // grid.columns % grid.rows)[None, :] + down, (at % grid.columns)[None, :] + right
    there = exists[None, :] & (r >= 0) & (r < grid.rows) & (c >= 0) & (c < grid.columns) & (k == 4 if OWN else k < 9)
    # A centre is candidate 8 - k of its neighbour k.
    first = sums + (row[None, :] * 9 + 8 - k) * patches + (at[None, :] + down * grid.columns + right) * parts
    total = tl.zeros([16, at.shape[0], PARTS], sums.dtype.element_ty)
    begin = 0
    while begin < parts:
        part = begin + tl.arange(0, PARTS)[None, None, :]
        total += tl.load(first[:, :, None] + part, mask=there[:, :, None] & (part < parts), other=0)
        begin += PARTS
    return tl.sum(tl.sum(total, 2), 0)


@jit
def _gradients_kernel(
    coefficients,  # [2]
    cell,
    height,
    width,
    side,
    patches,
    sums,  # [C+3,9,patches]
    cells,  # B L
    channels,
    mass_after,  # [B,L]; None where no centre was copied
    grad_centers_after,  # [B,L,C]
    grad_positions_after,  # [B,L,2]
    grad_centers,  # [B,L,C]
    grad_positions,  # [B,L,2]
    ACC: tl.constexpr,
    PIXELS: tl.constexpr,
    PARTS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Gradients of centres and positions from the sums that a backward leaves, with the scores' gradients as weights.
    One lane per number of a centre; it reads nine sums."""
    row, at, exists = centers_of(cells, channels + 2, LANES)
    metric = read_metric(coefficients, cell, ACC)
    value = gather(sums, row + 1, at, exists, height, width, side, patches, PIXELS, PARTS, False)
    value *= 2 * metric.inverse_temperature
    of_center, of_position = exists & (row < channels), exists & (row >= channels)
    center, axis = at * channels + row, at * 2 + row - channels
    value = tl.where(of_center, value, value * metric.kappa2)
    if mass_after is not None:
        copied = tl.load(mass_after + at, mask=exists, other=1) <= 0
        value += tl.load(grad_centers_after + center, mask=copied & of_center, other=0)
        value += tl.load(grad_positions_after + axis, mask=copied & of_position, other=0)
    tl.store(grad_centers + center, value, mask=of_center)
    tl.store(grad_positions + axis, value, mask=of_position)


@jit
def _coefficients_kernel(
    coefficients,  # [2]
    cell,
    pairs,  # [count,2] parts of features and positions in the sum of weight * score / 2
    count,
    out,  # [2]
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradient of (compactness, temperature): one program."""
    metric = read_metric(coefficients, cell, ACC)
    compactness = tl.load(coefficients)
    features = tl.zeros([BLOCK], ACC)
    positions = tl.zeros([BLOCK], ACC)
    begin = 0
    while begin < count:
        at = begin + tl.arange(0, BLOCK).to(tl.int64)
        features += tl.load(pairs + 2 * at, mask=at < count, other=0)
        positions += tl.load(pairs + 2 * at + 1, mask=at < count, other=0)
        begin += BLOCK
    of_features, of_positions = 2 * tl.sum(features, 0), 2 * tl.sum(positions, 0) * metric.kappa2
    of_compactness = divide(2 * of_positions * metric.inverse_temperature, tl.where(compactness != 0, compactness, 1))
    tl.store(out, tl.where(compactness != 0, of_compactness, 0))
    tl.store(out + 1, -(of_features + of_positions) * metric.inverse_temperature * metric.inverse_temperature)


def center_gradients(
    job: Job,
    sums: Tensor,
    grad_centers: Tensor,
    grad_positions: Tensor,
    after: tuple[Tensor | None, ...] = (None, None, None),
) -> None:
    """Fill the gradients of centres and positions; `after`: masses after an update, and the gradients there."""
    launch(
        _gradients_kernel,
        job.gathering(job.channels + 2),
        sums,
        *job.metric,
        *job.geometry,
        sums,
        job.cells,
        job.channels,
        *after,
        grad_centers,
        grad_positions,
        ACC=triton_dtype(job.dtype),
        **job.centers,
    )


def coefficient_gradients(job: Job, pairs: Tensor) -> Tensor:
    """[2]: of compactness and temperature."""
    out = job.empty(2)
    launch(_coefficients_kernel, 1, pairs, *job.metric, pairs, len(pairs), out, ACC=triton_dtype(job.dtype), BLOCK=1024)
    return out
