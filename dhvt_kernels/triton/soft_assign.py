"""Soft assignment at given centres, with the assignment itself as output, and its gradients."""

import torch
from torch import Tensor

from .._layout import empty_image_like
from ._checked import checked
from ._language import jit, tl
from ._launch import launch
from ._soft import (
    Job,
    dense,
    differences,
    grid_of,
    label_pixels,
    offsets_of,
    other_candidates,
    place_of,
    read_metric,
    score_pixels,
    share_pixels,
    softmax_backward,
)
from ._soft_sums import center_gradients, coefficient_gradients, store_relative_sums


@jit
def _assign_kernel(
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
    mass,  # [B,L] or None
    assignment,  # [B,9,H,W]
    labels,  # [B,H,W]
    ACC: tl.constexpr,
    GROUP: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """A program per GROUP patches. Reads b C bytes per pixel, and 9 centres per patch; writes 9 b + 4."""
    here, around, _at, used, score = score_pixels(
        coefficients, cell, height, width, side, patches, features, mask, channels, image_stride, channel_stride,
        row_stride, column_stride, centers, positions, mass, ACC, GROUP, PIXELS,
    )  # fmt: skip
    metric = read_metric(coefficients, cell, ACC)
    grid = grid_of(height, width, side)
    label = label_pixels(score, here, around, used, grid.columns)
    tl.store(labels + place_of(here, height, width), label, mask=here.there)
    share, own_share = share_pixels(score, around, used, metric.inverse_temperature)
    plane = tl.cast(height, tl.int64) * width
    out = assignment + offsets_of(here, 9 * plane, width, 1)
    tl.store(out[None, :, :] + other_candidates()[:, None, None] * plane, share, mask=here.there[None, :, :])
    tl.store(out + 4 * plane, own_share, mask=here.there)


@jit
def _assign_backward_kernel(
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
    mass,  # [B,L] or None
    grad_assignment,  # [B,9,H,W] by its strides
    grad_image_stride,
    grad_channel_stride,
    grad_row_stride,
    grad_column_stride,
    grad_features,  # [B,C,H,W] by its strides
    out_image_stride,
    out_channel_stride,
    out_row_stride,
    out_column_stride,
    sums,  # [C+3,9,patches]
    pairs,  # [programs,2]
    ACC: tl.constexpr,
    GROUP: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """A program per GROUP patches. Reads the features, from the caches three times, and 9 gradients, writes the
    gradient of the features: b (2 C + 9) bytes per pixel; leaves 9 (C + 3) sums per patch."""
    here, around, at, used, score = score_pixels(
        coefficients, cell, height, width, side, patches, features, mask, channels, image_stride, channel_stride,
        row_stride, column_stride, centers, positions, mass, ACC, GROUP, PIXELS,
    )  # fmt: skip
    metric = read_metric(coefficients, cell, ACC)
    share, own_share = share_pixels(score, around, used, metric.inverse_temperature)
    source = grad_assignment + offsets_of(here, grad_image_stride, grad_row_stride, grad_column_stride)
    others = source[None, :, :] + other_candidates()[:, None, None] * tl.cast(grad_channel_stride, tl.int64)
    grad = tl.load(others, mask=used[None, :, :], other=0).to(ACC)
    own_grad = tl.load(source + 4 * tl.cast(grad_channel_stride, tl.int64), mask=used, other=0).to(ACC)
    grad, own_grad = softmax_backward(share, own_share, grad, own_grad)
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
    mass="sum B L?",
    mask="bool B H W?",
    coefficients="sum 2?",
    cell=1,
)
def soft_assign(
    features: Tensor,
    centers: Tensor,
    positions: Tensor,
    mass: Tensor | None,
    mask: Tensor | None,
    coefficients: Tensor | None,
    cell: int,
    compactness: float,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Assignment [B,9,H,W] in the dtype of the features, and labels [B,H,W]."""
    job = Job(features, mask, coefficients, cell, compactness, temperature, centers)
    batch, _, height, width = features.shape
    assignment = features.new_empty(batch, 9, height, width)
    labels = features.new_empty(batch, height, width, dtype=torch.int32)
    launch(
        _assign_kernel,
        job.programs,
        features,
        *job.arguments,
        *dense(centers, positions, mass),
        assignment,
        labels,
        **job.constants,
    )
    return assignment, labels


@checked(
    features="floating B C H W",
    centers="sum B L C",
    positions="sum B L 2",
    mass="sum B L?",
    mask="bool B H W?",
    coefficients="sum 2?",
    grad_assignment="same B 9 H W",
    cell=1,
)
def soft_assign_backward(
    grad_assignment: Tensor,
    features: Tensor,
    centers: Tensor,
    positions: Tensor,
    mass: Tensor | None,
    mask: Tensor | None,
    coefficients: Tensor | None,
    cell: int,
    compactness: float,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of features, centres, positions and (compactness, temperature)."""
    job = Job(features, mask, coefficients, cell, compactness, temperature, centers)
    grad_features = empty_image_like(features, features.dtype)
    grad_centers, grad_positions = job.empty(*centers.shape), job.empty(*positions.shape)
    sums, pairs = job.sums(job.channels + 3), job.empty(job.programs, 2)
    launch(
        _assign_backward_kernel,
        job.programs,
        features,
        *job.arguments,
        *dense(centers, positions, mass),
        grad_assignment,
        *grad_assignment.stride(),
        grad_features,
        *grad_features.stride(),
        sums,
        pairs,
        **job.constants,
    )
    center_gradients(job, sums, grad_centers, grad_positions)
    return grad_features, grad_centers, grad_positions, coefficient_gradients(job, pairs)
