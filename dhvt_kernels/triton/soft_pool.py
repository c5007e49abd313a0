"""Pooling of any values with the soft assignment, without ever storing it, and its gradients."""

from torch import Tensor

from .._layout import empty_image_like
from ._checked import checked
from ._language import jit, tl
from ._launch import launch
from ._soft import (
    Job,
    dense,
    differences,
    load_four,
    offsets_of,
    read_metric,
    score_pixels,
    share_pixels,
    softmax_backward,
)
from ._soft_sums import (
    center_gradients,
    centers_of,
    coefficient_gradients,
    gather,
    store_relative_sums,
    store_sums,
    store_weights,
)


@jit
def _pool_kernel(
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
    values,  # [B,Cv,H,W] by its strides
    value_channels,
    value_image_stride,
    value_channel_stride,
    value_row_stride,
    value_column_stride,
    sums,  # [Cv+1,9,patches]
    ACC: tl.constexpr,
    GROUP: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """A program per GROUP patches. Reads features and values once, b (C + Cv) bytes per pixel, and 9 centres per patch;
    leaves 9 (Cv + 1) sums per patch."""
    here, around, _at, used, score = score_pixels(
        coefficients, cell, height, width, side, patches, features, mask, channels, image_stride, channel_stride,
        row_stride, column_stride, centers, positions, mass, ACC, GROUP, PIXELS,
    )  # fmt: skip
    metric = read_metric(coefficients, cell, ACC)
    share, own_share = share_pixels(score, around, used, metric.inverse_temperature)
    share = tl.permute(share, (1, 2, 0))
    store_weights(sums, patches, here.patch, share, own_share)
    source = values + offsets_of(here, value_image_stride, value_row_stride, value_column_stride)
    c = 0
    while c < value_channels:
        four = load_four(source, c, value_channels, value_channel_stride, used, ACC)
        for i in tl.static_range(4):
            if c + i < value_channels:
                others = tl.sum(share * four[i][:, :, None], 1)
                store_sums(sums, c + i + 1, patches, here.patch, others, tl.sum(own_share * four[i], 1))
        c += 4


@jit
def _gather_kernel(
    height,
    width,
    side,
    patches,
    sums,  # [Cv+1,9,patches]
    cells,  # B L
    channels,  # Cv
    out,  # [B,L,Cv]
    mass,  # [B,L]
    PIXELS: tl.constexpr,
    PARTS: tl.constexpr,
    LANES: tl.constexpr,
):
    """One lane per number of a centre; it reads nine sums."""
    row, at, exists = centers_of(cells, channels + 1, LANES)
    total = gather(sums, row, at, exists, height, width, side, patches, PIXELS, PARTS, False)
    tl.store(mass + at, total, mask=exists & (row == 0))
    tl.store(out + at * channels + row - 1, total, mask=exists & (row > 0))


@jit
def _pool_backward_kernel(
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
    values,  # [B,Cv,H,W] by its strides
    value_channels,
    value_image_stride,
    value_channel_stride,
    value_row_stride,
    value_column_stride,
    grad_sums,  # [B,L,Cv]
    grad_mass,  # [B,L]
    grad_features,  # [B,C,H,W] by its strides
    out_image_stride,
    out_channel_stride,
    out_row_stride,
    out_column_stride,
    grad_values,  # [B,Cv,H,W] by its strides
    out_value_image_stride,
    out_value_channel_stride,
    out_value_row_stride,
    out_value_column_stride,
    sums,  # [C+3,9,patches]
    pairs,  # [programs,2]
    ACC: tl.constexpr,
    GROUP: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """A program per GROUP patches. Reads features and values and writes their gradients, 2 b (C + Cv) bytes per pixel;
    leaves 9 (C + 3) sums per patch."""
    here, around, at, used, score = score_pixels(
        coefficients, cell, height, width, side, patches, features, mask, channels, image_stride, channel_stride,
        row_stride, column_stride, centers, positions, mass, ACC, GROUP, PIXELS,
    )  # fmt: skip
    metric = read_metric(coefficients, cell, ACC)
    share, own_share = share_pixels(score, around, used, metric.inverse_temperature)
    whole = tl.sum(share, 0) + own_share
    # The gradient of the shares relative to that of the own one: what all have in common does not matter.
    _base, more = differences(grad_mass, around, 1, 0)
    grad = tl.zeros([8, GROUP, PIXELS], ACC) + more[:, :, None]
    source = values + offsets_of(here, value_image_stride, value_row_stride, value_column_stride)
    target = grad_values + offsets_of(here, out_value_image_stride, out_value_row_stride, out_value_column_stride)
    c = 0
    while c < value_channels:
        four = load_four(source, c, value_channels, value_channel_stride, used, ACC)
        for i in tl.static_range(4):
            base, more = differences(grad_sums, around, value_channels, c + i)
            grad += four[i][None, :, :] * more[:, :, None]
            value = tl.sum(share * more[:, :, None], 0) + whole * base[:, None]
            out = target + tl.cast(c + i, tl.int64) * out_value_channel_stride
            tl.store(out, tl.where(used, value, 0), mask=here.there & (c + i < value_channels))
        c += 4
    grad, own_grad = softmax_backward(share, own_share, grad, tl.zeros([GROUP, PIXELS], ACC))
    target = grad_features + offsets_of(here, out_image_stride, out_row_stride, out_column_stride)
    c = 0
    while c < channels:
        _base, apart = differences(centers, around, channels, c)
        value = tl.sum(grad * apart[:, :, None], 0) * (2 * metric.inverse_temperature)
        tl.store(target + tl.cast(c, tl.int64) * out_channel_stride, value, mask=here.there)
        c += 1
    of_features, of_positions = store_relative_sums(
        sums, here, around, patches, grad, own_grad, at, used, channels, channel_stride, centers, positions
    )
    pair = pairs + 2 * tl.program_id(0).to(tl.int64)
    tl.store(pair, of_features)
    tl.store(pair + 1, of_positions)


@checked(
    features="floating B C H W",
    centers="sum B L C",
    positions="sum B L 2",
    mass="sum B L",
    mask="bool B H W?",
    coefficients="sum 2?",
    values="same B D H W",
    cell=1,
)
def soft_pool(
    features: Tensor,
    values: Tensor,
    centers: Tensor,
    positions: Tensor,
    mass: Tensor,
    mask: Tensor | None,
    coefficients: Tensor | None,
    cell: int,
    compactness: float,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Sums [B,L,Cv] and masses [B,L] of values weighted by the assignment at the given centres."""
    job = Job(features, mask, coefficients, cell, compactness, temperature, centers)
    channels = values.shape[1]
    out, out_mass, sums = job.empty(*mass.shape, channels), job.empty(*mass.shape), job.sums(channels + 1)
    launch(
        _pool_kernel,
        job.programs,
        features,
        *job.arguments,
        *dense(centers, positions, mass),
        values,
        channels,
        *values.stride(),
        sums,
        **job.constants,
    )
    programs = job.gathering(channels + 1)
    launch(_gather_kernel, programs, sums, *job.geometry, sums, job.cells, channels, out, out_mass, **job.centers)
    return out, out_mass


@checked(
    features="floating B C H W",
    centers="sum B L C",
    positions="sum B L 2",
    mass="sum B L",
    mask="bool B H W?",
    coefficients="sum 2?",
    values="same B D H W",
    grad_sums="sum B L D",
    grad_mass="sum B L",
    cell=1,
)
def soft_pool_backward(
    grad_sums: Tensor,
    grad_mass: Tensor,
    features: Tensor,
    values: Tensor,
    centers: Tensor,
    positions: Tensor,
    mass: Tensor,
    mask: Tensor | None,
    coefficients: Tensor | None,
    cell: int,
    compactness: float,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of features, values, centres, positions and (compactness, temperature)."""
    job = Job(features, mask, coefficients, cell, compactness, temperature, centers)
    grad_features, grad_values = (empty_image_like(image, image.dtype) for image in (features, values))
    grad_centers, grad_positions = job.empty(*centers.shape), job.empty(*positions.shape)
    sums, pairs = job.sums(job.channels + 3), job.empty(job.programs, 2)
    launch(
        _pool_backward_kernel,
        job.programs,
        features,
        *job.arguments,
        *dense(centers, positions, mass),
        values,
        values.shape[1],
        *values.stride(),
        *dense(grad_sums, grad_mass),
        grad_features,
        *grad_features.stride(),
        grad_values,
        *grad_values.stride(),
        sums,
        pairs,
        **job.constants,
    )
    center_gradients(job, sums, grad_centers, grad_positions)
    return grad_features, grad_values, grad_centers, grad_positions, coefficient_gradients(job, pairs)
