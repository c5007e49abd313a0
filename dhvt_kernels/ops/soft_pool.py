"""Pooling with the soft assignment."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import register_fake

from .._checks import FLOATING, accumulation_dtype, check_tensors
from .._layout import empty_image_like
from .._schema import ops
from ._soft import Scalar, check_clusters, coefficients
from .soft_cluster import SoftClusters


@register_fake("dhvt_kernels::soft_pool")
def _(
    features: Tensor, values: Tensor, centers: Tensor, positions: Tensor, mass: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(features.dtype)
    batch, cells = mass.shape
    return values.new_empty(batch, cells, values.shape[1], dtype=dtype), values.new_empty(batch, cells, dtype=dtype)


@register_fake("dhvt_kernels::soft_pool_backward")
def _(
    grad_sums: Tensor,
    grad_mass: Tensor,
    features: Tensor,
    values: Tensor,
    centers: Tensor,
    positions: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        empty_image_like(features, features.dtype),
        empty_image_like(values, values.dtype),
        centers.new_empty(centers.shape),
        positions.new_empty(positions.shape),
        centers.new_empty(2),
    )


class _SoftPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, values: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        *tensors, cell, compactness, temperature = rest
        ctx.save_for_backward(features, values, *tensors)
        ctx.numbers = (cell, compactness, temperature)
        return ops.soft_pool(features, values, *rest)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sums: Tensor, grad_mass: Tensor) -> tuple[Tensor | None, ...]:
        grads = ops.soft_pool_backward(grad_sums, grad_mass, *ctx.saved_tensors, *ctx.numbers)
        grad_coefficients = grads[4] if ctx.needs_input_grad[6] else None
        return (*grads[:4], None, None, grad_coefficients, None, None, None)


def soft_pool(
    features: Tensor,
    values: Tensor,
    clusters: SoftClusters,
    *,
    cell: int,
    compactness: Scalar = 5.0,
    temperature: Scalar = 1.0,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum any values over soft clusters, with the assignment at the clusters' centres.

    `sums_j = sum_i a_ij v_i`, `mass_j = sum_i a_ij`, with `a` as in `soft_assign`.

    Args:
        features: `[B,C,H,W]` that were clustered, floating.
        values: `[B,Cv,H,W]` in the dtype of the features.
        clusters: result of `soft_cluster`; its labels are not used.
        cell: side of a cell, pixels: as in `soft_cluster`.
        compactness: as in `soft_cluster`.
        temperature: as in `soft_cluster`.
        mask: as in `soft_cluster`.

    Returns:
        `(sums [B,L,Cv], mass [B,L])` in float32 (float64 for float64). The mean of a cluster is `sums / mass[...,
        None]`; sums of a segment are the sums of its leaves. Pixels with a non-finite feature are
        left out; a non-finite value reaches the nine clusters around its pixel.

    Raises:
        TypeError: a dtype does not fit.
        ValueError: shapes or devices do not fit, or a number is out of range.

    Note:
        Gradients to features, values, centres and positions of the clusters, and to compactness and temperature where
        they are tensors; no double backward. Deterministic. Reads features and values once; the assignment is never
        stored.

    Source:
        Jampani et al., Superpixel Sampling Networks, 2018, equation 4.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> image, values = torch.rand(1, 3, 32, 32), torch.rand(1, 5, 32, 32)
        >>> sums, mass = dk.soft_pool(image, values, dk.soft_cluster(image, cell=8), cell=8)
        >>> sums.shape, round(mass.sum().item())
        (torch.Size([1, 16, 5]), 1024)
    """
    centers, positions, mass, _ = clusters
    check_clusters(features, cell, centers, positions, mass, mask)
    check_tensors(features=(features, "B C H W", FLOATING), values=(values, "B V H W", features.dtype))
    coefs, compactness, temperature = coefficients(compactness, temperature, features)
    if values is features:
        values = features.view_as(features)  # torch.compile refuses the same tensor twice
    arguments = (features, values, centers, positions, mass, mask, coefs, cell, compactness, temperature)
    tracked = [tensor for tensor in (features, values, centers, positions, coefs) if tensor is not None]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tracked):
        return _SoftPool.apply(*arguments)
    return ops.soft_pool(*arguments)
