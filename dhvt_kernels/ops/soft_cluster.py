"""Soft superpixels: iterations of soft assignment and update."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import register_fake

from .._checks import FLOATING, accumulation_dtype, check_choice, check_int, check_tensors
from .._layout import empty_image_like
from .._schema import ops
from ._soft import Scalar, coefficients


@register_fake("dhvt_kernels::soft_cluster")
def _(
    features: Tensor,
    mask: Tensor | None,
    coefficients: Tensor | None,
    cell: int,
    compactness: float,
    temperature: float,
    iterations: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, channels, height, width = features.shape
    cells = (height + cell - 1) // cell * ((width + cell - 1) // cell)
    dtype = accumulation_dtype(features.dtype)
    states = (iterations + 1, batch, cells)
    return (
        features.new_empty(*states, channels, dtype=dtype),
        features.new_empty(*states, 2, dtype=dtype),
        features.new_empty(*states, dtype=dtype),
        features.new_empty(batch, height, width, dtype=torch.int32),
    )


@register_fake("dhvt_kernels::soft_cluster_backward")
def _(
    grad_centers: Tensor, grad_positions: Tensor, grad_mass: Tensor, features: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    return empty_image_like(features, features.dtype), grad_centers.new_empty(2)


class _SoftCluster(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        mask: Tensor | None,
        coefs: Tensor | None,
        cell: int,
        compactness: float,
        temperature: float,
        iterations: int,
        last_only: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        numbers = (cell, compactness, temperature)
        centers, positions, mass, labels = ops.soft_cluster(features, mask, coefs, *numbers, iterations)
        ctx.save_for_backward(features, mask, coefs, centers, positions, mass)
        ctx.numbers = (*numbers, last_only)
        ctx.mark_non_differentiable(labels)
        return centers[-1].clone(), positions[-1].clone(), mass[-1].clone(), labels

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_centers: Tensor, grad_positions: Tensor, grad_mass: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        grad_features, grad_coefficients = ops.soft_cluster_backward(
            grad_centers, grad_positions, grad_mass, *ctx.saved_tensors, *ctx.numbers
        )
        return (grad_features, None, grad_coefficients if ctx.needs_input_grad[2] else None, *(None,) * 5)


class SoftClusters(NamedTuple):
    """Result of `soft_cluster`; `L = ceil(H/cell) * ceil(W/cell)` clusters, one per cell in raster order."""

    centers: Tensor
    """[B,L,C] mean features, float32 (float64 for float64)."""
    positions: Tensor
    """[B,L,2] mean positions (y, x), pixels."""
    mass: Tensor
    """[B,L] sum of the pixels' shares; 0 marks a cluster that is no candidate."""
    labels: Tensor
    """int32 [B,H,W] nearest cluster of each pixel; not connected (see `connected_components`)."""


def soft_cluster(
    features: Tensor,
    *,
    cell: int,
    iterations: int = 5,
    compactness: Scalar = 5.0,
    temperature: Scalar = 1.0,
    grad: str = "full",
    mask: Tensor | None = None,
) -> SoftClusters:
    """Cluster pixels softly around the cells of a grid: differentiable superpixels.

    From the cells' means, `iterations` times: `a = softmax(z)` as in `soft_assign`, then `w_j = sum_i a_ij`,
    `mu_j = sum_i a_ij f_i / w_j`, `s_j = sum_i a_ij p_i / w_j`. A centre whose mass is zero keeps its values and is no
    candidate.

    Args:
        features: `[B,C,H,W]`, float16, bfloat16, float32 or float64; contiguous, channels_last or any view.
        cell: side of a cell, pixels; H and W need not be multiples.
        iterations: number of updates; 0 gives the cells' means.
        compactness: weight of the distance in space, in units of the features; number or tensor of one element, >= 0.
        temperature: softness, in squared units of the features; number or tensor of one element, > 0. The value of a
            tensor is not checked, as that would wait for the device; out of range it gives centres without mass.
        grad: `"full"`: gradients through all iterations; `"last"`: through the last one only.
        mask: bool `[B,H,W]`, False for pixels that belong to no image (padding of a batch).

    Returns:
        `SoftClusters(centers [B,L,C], positions [B,L,2], mass [B,L], labels int32 [B,H,W])`. The mass is that of the
        last update; the labels are those of `soft_assign` at the returned centres. A pixel with a non-finite feature
        takes no part in any centre and has the label of its own cell.

    Raises:
        TypeError: features are no floating tensor, or mask is not bool.
        ValueError: shapes or devices do not fit, or a number is out of range.

    Note:
        Gradients to features, and to compactness and temperature where they are tensors; no double backward.
        Deterministic, with the same bits for any number of threads. Each iteration reads the features once and
        computes 36 C + 120 operations and 9 exponentials per pixel; the backward recomputes the assignment from the
        centres of each iteration, so nothing of size pixels x 9 is ever stored.

    Source:
        Jampani et al., Superpixel Sampling Networks, 2018, algorithm 1.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> dk.soft_cluster(torch.rand(2, 3, 64, 64), cell=8).centers.shape
        torch.Size([2, 64, 3])
    """
    check_tensors(features=(features, "B C H W", FLOATING), mask=(mask, "B H W?", torch.bool))
    check_int("cell", cell, 1)
    check_int("iterations", iterations, 0)
    check_choice("grad", grad, ("full", "last"))
    coefs, compactness, temperature = coefficients(compactness, temperature, features)
    if torch.is_grad_enabled() and (features.requires_grad or (coefs is not None and coefs.requires_grad)):
        last_only = grad == "last"
        return SoftClusters(
            *_SoftCluster.apply(features, mask, coefs, cell, compactness, temperature, iterations, last_only)
        )
    centers, positions, mass, labels = ops.soft_cluster(
        features, mask, coefs, cell, compactness, temperature, iterations
    )
    return SoftClusters(centers[-1], positions[-1], mass[-1], labels)
