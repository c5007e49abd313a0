"""Soft pixel-to-token assignment at given centres."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import register_fake

from .._layout import empty_image_like
from .._schema import ops
from ._soft import Scalar, check_clusters, coefficients


@register_fake("dhvt_kernels::soft_assign")
def _(
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
    batch, _, height, width = features.shape
    return (
        features.new_empty(batch, 9, height, width),
        features.new_empty(batch, height, width, dtype=torch.int32),
    )


@register_fake("dhvt_kernels::soft_assign_backward")
def _(
    grad_assignment: Tensor, features: Tensor, centers: Tensor, positions: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        empty_image_like(features, features.dtype),
        centers.new_empty(centers.shape),
        positions.new_empty(positions.shape),
        centers.new_empty(2),
    )


class _SoftAssign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, centers: Tensor, positions: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        mass, mask, coefs, *numbers = rest
        assignment, labels = ops.soft_assign(features, centers, positions, *rest)
        ctx.save_for_backward(features, centers, positions, mass, mask, coefs)
        ctx.numbers = numbers
        ctx.mark_non_differentiable(labels)
        ctx.set_materialize_grads(False)
        return assignment, labels

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_assignment: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad_assignment is None:
            return (None,) * 9
        grads = ops.soft_assign_backward(grad_assignment, *ctx.saved_tensors, *ctx.numbers)
        grad_coefficients = grads[3] if ctx.needs_input_grad[5] else None
        return (grads[0], grads[1], grads[2], None, None, grad_coefficients, None, None, None)


class SoftAssignment(NamedTuple):
    """Result of `soft_assign`."""

    assignment: Tensor
    """[B,9,H,W] in the features' dtype."""
    labels: Tensor
    """int32 [B,H,W]."""


def soft_assign(
    features: Tensor,
    centers: Tensor,
    positions: Tensor,
    *,
    cell: int,
    compactness: Scalar = 5.0,
    temperature: Scalar = 1.0,
    mass: Tensor | None = None,
    mask: Tensor | None = None,
) -> SoftAssignment:
    """Softly assign every pixel to the centres of its own cell and of the eight around it.

    `z_ij = -(|f_i - mu_j|^2 + (compactness / cell)^2 |p_i - s_j|^2) / temperature`, `a_i = softmax_j(z_i)`.

    Args:
        features: `[B,C,H,W]`, float16, bfloat16, float32 or float64; contiguous, channels_last or any view.
        centers: `[B,L,C]` mean features, one per cell in raster order, `L = ceil(H/cell) * ceil(W/cell)`; float32
            (float64 for float64 features).
        positions: `[B,L,2]` positions (y, x) of the centres, pixels; dtype as `centers`.
        cell: side of a cell, pixels.
        compactness: weight of the distance in space, in units of the features; number or tensor of one element, >= 0.
        temperature: softness, in squared units of the features; number or tensor of one element, > 0. The value of a
            tensor is not checked, as that would wait for the device; out of range it gives centres without mass.
        mass: `[B,L]`; a centre whose mass is 0 is no candidate. None: every centre is one.
        mask: bool `[B,H,W]`, False for pixels that belong to no image (padding of a batch).

    Returns:
        `assignment [B,9,H,W]`: the share of each of the 3x3 cells around the pixel's own, in raster order (index 4 is
        its own); 0 for cells outside the image; and `labels` int32 `[B,H,W]`: the nearest centre (own cell first, then
        lowest index on ties), -1 outside the mask. A share below `2^-80` of the pixel's largest is 0. A pixel with a
        non-finite feature has no share in any centre, and the label of its own cell.

    Raises:
        TypeError: a dtype is not one of the above.
        ValueError: shapes or devices do not fit, or a number is out of range.

    Note:
        Gradients to features, centres, positions, and to compactness and temperature where they are tensors; no double
        backward. Deterministic. Reads the features once; the assignment is 9 values per pixel, so prefer
        `soft_cluster` and `soft_pool`, which never store it.

    Source:
        Jampani et al., Superpixel Sampling Networks, 2018, equation 3, with 3x3 candidates.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> image = torch.rand(1, 3, 32, 48)
        >>> clusters = dk.soft_cluster(image, cell=8)
        >>> dk.soft_assign(image, clusters.centers, clusters.positions, cell=8).assignment.shape
        torch.Size([1, 9, 32, 48])
    """
    check_clusters(features, cell, centers, positions, mass, mask)
    coefs, compactness, temperature = coefficients(compactness, temperature, features)
    arguments = (features, centers, positions, mass, mask, coefs, cell, compactness, temperature)
    tracked = (features, centers, positions) if coefs is None else (features, centers, positions, coefs)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tracked):
        return SoftAssignment(*_SoftAssign.apply(*arguments))
    return SoftAssignment(*ops.soft_assign(*arguments))
