"""The gradients of soft clustering: walks the iterations backwards; each recomputes its assignment from saved states.

The gradient that a pixel's share has in centre j is linear in the pixel's numbers: with m, mu, s the mass, centre and
position after the update, and g their gradients, it is g_m + v . (f - mu, p - s) where v = (g_mu, g_s) / m. Below,
"pulls" are v and, as the number 0 of a centre, g_m - v . (what the update moved it by), so that numbers of pixels may
be relative to the centres before.
"""

import torch
from torch import Tensor

from .._layout import empty_image_like
from ._checked import checked, require
from ._lanes import lanes
from ._language import cdiv, jit, next_power_of_2, tl
from ._launch import launch
from ._math import divide
from ._soft import (
    LANES,
    Job,
    dense,
    differences,
    load_four,
    locate,
    neighbours,
    offsets_of,
    position,
    read_metric,
    score_pixels,
    share_pixels,
    softmax_backward,
    takes_part,
)
from ._soft_sums import center_gradients, coefficient_gradients, store_relative_sums


@jit
def _pull(moved, grad, before, after, scale, place, exists):
    """Adds the part of a number of LANES centres to what they were moved by; returns its pull, too."""
    value = tl.load(grad + place, mask=exists, other=0) * scale
    by = tl.load(after + place, mask=exists, other=0) - tl.load(before + place, mask=exists, other=0)
    return moved + value * by, value


@jit
def _pulls_kernel(
    cells,  # B L
    channels,
    grad_centers,  # [B,L,C] after the update
    grad_positions,  # [B,L,2]
    grad_mass,  # [B,L] or None
    centers_before,  # [B,L,C]
    positions_before,  # [B,L,2]
    centers,  # [B,L,C]
    positions,  # [B,L,2]
    mass,  # [B,L]
    pull_centers,  # [B,L,C]
    pull_positions,  # [B,L,2]
    pull_mass,  # [B,L]
    LANES: tl.constexpr,
):
    """The pulls of LANES centres: 0 where an update found no mass. Reads 3 (C + 2) numbers per centre."""
    at, exists = lanes(cells, LANES)
    after = tl.load(mass + at, mask=exists, other=0)
    scale = tl.where(after > 0, divide(tl.full([LANES], 1, after.dtype), tl.where(after > 0, after, 1)), 0)
    moved = tl.zeros([LANES], after.dtype)
    c = 0
    while c < channels:
        place = at * channels + c
        moved, value = _pull(moved, grad_centers, centers_before, centers, scale, place, exists)
        tl.store(pull_centers + place, value, mask=exists)
        c += 1
    for axis in tl.static_range(2):
        place = at * 2 + axis
        moved, value = _pull(moved, grad_positions, positions_before, positions, scale, place, exists)
        tl.store(pull_positions + place, value, mask=exists)
    own = tl.zeros([LANES], after.dtype)
    if grad_mass is not None:
        own = tl.where(after > 0, tl.load(grad_mass + at, mask=exists, other=0), 0)
    tl.store(pull_mass + at, own - moved, mask=exists)


@jit
def _add_pull(grad, value, apart, base, more):
    """Adds a number's part to the gradient of the shares [8,G,P], relative to that of the own one. value [G,P] is
    relative to the own centre, and so is `apart` [8,G]; the pulls are base [G] and base + more [8,G]."""
    constant = (base[None, :] + more) * apart
    return grad + value[None, :, :] * more[:, :, None] - constant[:, :, None]


@jit
def _cluster_backward_kernel(
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
    centers,  # [B,L,C] before the update
    positions,  # [B,L,2]
    mass,  # [B,L]
    pull_centers,  # [B,L,C]
    pull_positions,  # [B,L,2]
    pull_mass,  # [B,L]
    grad_features,  # [B,C,H,W] by its strides
    out_image_stride,
    out_channel_stride,
    out_row_stride,
    out_column_stride,
    sums,  # [C+3,9,patches]
    pairs,  # [programs,2]
    FIRST: tl.constexpr,
    ACC: tl.constexpr,
    GROUP: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """One iteration. A program per GROUP patches: reads the features, from the caches three times, and reads (but for
    the FIRST iteration that is walked) and writes their gradient, (b + 8) C bytes per pixel; leaves 9 (C + 3) sums per
    patch."""
    here, around, at, used, score = score_pixels(
        coefficients, cell, height, width, side, patches, features, mask, channels, image_stride, channel_stride,
        row_stride, column_stride, centers, positions, mass, ACC, GROUP, PIXELS,
    )  # fmt: skip
    metric = read_metric(coefficients, cell, ACC)
    share, own_share = share_pixels(score, around, used, metric.inverse_temperature)
    base, more = differences(pull_mass, around, 1, 0)
    grad = tl.zeros([8, GROUP, PIXELS], ACC) + more[:, :, None]
    c = 0
    while c < channels:
        center, apart = differences(centers, around, channels, c)
        base, more = differences(pull_centers, around, channels, c)
        value = tl.load(at + tl.cast(c, tl.int64) * channel_stride, mask=used, other=0).to(ACC) - center[:, None]
        grad = _add_pull(grad, value, apart, base, more)
        c += 1
    for axis in tl.static_range(2):
        center, apart = differences(positions, around, 2, axis)
        base, more = differences(pull_positions, around, 2, axis)
        grad = _add_pull(grad, position(here, axis, center), apart, base, more)
    grad, own_grad = softmax_backward(share, own_share, grad, tl.zeros([GROUP, PIXELS], ACC))
    whole = tl.sum(share, 0) + own_share
    target = grad_features + offsets_of(here, out_image_stride, out_row_stride, out_column_stride)
    c = 0
    while c < channels:
        center, apart = differences(centers, around, channels, c)
        base, more = differences(pull_centers, around, channels, c)
        value = tl.sum(grad * (2 * metric.inverse_temperature * apart)[:, :, None] + share * more[:, :, None], 0)
        value += base[:, None] * whole
        out = target + tl.cast(c, tl.int64) * out_channel_stride
        if not FIRST:
            value += tl.load(out, mask=here.there, other=0)
        tl.store(out, value, mask=here.there)
        c += 1
    of_features, of_positions = store_relative_sums(
        sums, here, around, patches, grad, own_grad, at, used, channels, channel_stride, centers, positions
    )
    pair = pairs + 2 * tl.program_id(0).to(tl.int64)
    tl.store(pair, of_features)
    tl.store(pair + 1, of_positions)


@jit
def _means_backward_kernel(
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
    mass,  # [B,L] of the cells' means
    grad_centers,  # [B,L,C] of the cells' means; None without
    so_far,  # [B,C,H,W] with the strides of the output, None if there is nothing
    grad_features,  # [B,C,H,W] by its strides
    out_image_stride,
    out_channel_stride,
    out_row_stride,
    out_column_stride,
    ACC: tl.constexpr,
    GROUP: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """The gradient of the features in their own dtype: what the iterations left, and what comes through the means. A
    program per GROUP patches; reads features and gradient, writes the gradient, (2 b + 4) C bytes per pixel."""
    here = locate(height, width, side, patches, mask, GROUP, PIXELS)
    around = neighbours(here.image, here.row, here.column, mass, height, width, side)
    at = features + offsets_of(here, image_stride, row_stride, column_stride)
    place = offsets_of(here, out_image_stride, out_row_stride, out_column_stride)
    squares = tl.zeros([GROUP, PIXELS], ACC)
    scale = tl.zeros([GROUP], ACC)
    if grad_centers is not None:
        c = 0
        while c < channels:
            values = load_four(at, c, channels, channel_stride, here.inside, ACC)
            for i in tl.static_range(4):
                squares += values[i] * values[i]
            c += 4
        scale = divide(tl.full([GROUP], 1, ACC), tl.where(around.alive, tl.load(mass + around.own), 1))
    used = here.inside & takes_part(squares) & around.alive[:, None]
    c = 0
    while c < channels:
        value = tl.zeros([GROUP, PIXELS], ACC)
        if so_far is not None:
            value = tl.load(so_far + place, mask=here.there, other=0)
        if grad_centers is not None:
            through = tl.load(grad_centers + around.own * channels + c) * scale
            value += tl.where(used, through[:, None], 0)
        tl.store(grad_features + place, value, mask=here.there)
        place += out_channel_stride
        c += 1


@checked(
    features="floating B C H W",
    mask="bool B H W?",
    coefficients="sum 2?",
    grad_centers="sum B L C",
    grad_positions="sum B L 2",
    grad_mass="sum B L",
    centers="sum I+1 B L C",
    positions="sum I+1 B L 2",
    mass="sum I+1 B L",
    cell=1,
)
def soft_cluster_backward(
    grad_centers: Tensor,
    grad_positions: Tensor,
    grad_mass: Tensor,
    features: Tensor,
    mask: Tensor | None,
    coefficients: Tensor | None,
    centers: Tensor,
    positions: Tensor,
    mass: Tensor,
    cell: int,
    compactness: float,
    temperature: float,
    last_only: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of features and (compactness, temperature), through all iterations or the last one only."""
    require(len(centers) > 0, "centers [I+1,B,L,C]: expected at least one state")
    job = Job(features, mask, coefficients, cell, compactness, temperature, grad_mass)
    out = empty_image_like(features, features.dtype)
    so_far = out if out.dtype == job.dtype else empty_image_like(features, job.dtype)
    centers, positions, mass = centers.contiguous(), positions.contiguous(), mass.contiguous()
    grads = dense(grad_centers, grad_positions, grad_mass)
    iterations = len(centers) - 1
    through_means = not last_only or iterations == 0
    steps = range(iterations - 1, -1, -1)[: 1 if last_only else None]
    sums, pairs = job.sums(job.channels + 3), job.empty(len(steps) * job.programs, 2)
    lanes = min(LANES, next_power_of_2(max(job.cells, 1)))
    for number, i in enumerate(steps):
        before, after = (centers[i], positions[i], mass[i]), (centers[i + 1], positions[i + 1], mass[i + 1])
        pulls = tuple(torch.empty_like(part) for part in before)
        launch(
            _pulls_kernel,
            cdiv(job.cells, lanes),
            centers,
            job.cells,
            job.channels,
            *grads,
            *before[:2],
            *after,
            *pulls,
            LANES=lanes,
        )
        launch(
            _cluster_backward_kernel,
            job.programs,
            features,
            *job.arguments,
            *before,
            *pulls,
            so_far,
            *so_far.stride(),
            sums,
            pairs[number * job.programs :],
            FIRST=number == 0,
            **job.constants,
        )
        if through_means:
            of_centers, of_positions = torch.empty_like(before[0]), torch.empty_like(before[1])
            center_gradients(job, sums, of_centers, of_positions, (after[2], *grads[:2]))
            grads = (of_centers, of_positions, None)
    if through_means or so_far is not out:
        launch(
            _means_backward_kernel,
            job.programs,
            features,
            *job.arguments,
            mass[0],
            grads[0] if through_means else None,
            so_far if iterations > 0 else None,
            out,
            *out.stride(),
            **job.constants,
        )
    return out, coefficient_gradients(job, pairs)
