"""Smoothing that respects borders, masks and NaN."""

from typing import Any

import torch
from torch import Tensor
from torch.library import register_fake

from .._checks import FLOATING, accumulation_dtype, check_float, check_tensors
from .._layout import empty_image_like
from .._schema import ops


@register_fake("dhvt_kernels::gaussian_blur")
def _(images: Tensor, mask: Tensor | None, sigma: float) -> tuple[Tensor, Tensor]:
    batch, _, height, width = images.shape
    total = images.new_empty((batch, height, width), dtype=accumulation_dtype(images.dtype))
    return empty_image_like(images, images.dtype), total


@register_fake("dhvt_kernels::gaussian_blur_backward")
def _(grad: Tensor, total: Tensor, sigma: float) -> Tensor:
    return empty_image_like(grad, grad.dtype)


class _GaussianBlur(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, mask: Tensor | None, sigma: float) -> Tensor:
        blurred, total = ops.gaussian_blur(images, mask, sigma)
        ctx.save_for_backward(total)
        ctx.sigma = sigma
        return blurred

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (total,) = ctx.saved_tensors
        return _GaussianBlurAdjoint.apply(grad, total, ctx.sigma), None, None


class _GaussianBlurAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, total: Tensor, sigma: float) -> Tensor:
        ctx.save_for_backward(total)
        ctx.sigma = sigma
        return ops.gaussian_blur_backward(grad, total, sigma)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (total,) = ctx.saved_tensors
        return _GaussianBlur.apply(grad, total > 0, ctx.sigma), None, None


def gaussian_blur(images: Tensor, *, sigma: float, mask: Tensor | None = None) -> Tensor:
    """Gaussian smoothing that stops at the border, at masked pixels and at NaN.

    `out_i = sum_j w_ij x_j / sum_j w_ij`, `w_ij = exp(-|p_i - p_j|^2 / (2 sigma^2))`, over the pixels j that exist:
    inside the image, inside the mask, and finite.

    Args:
        images: `[B,C,H,W]` of any floating dtype; contiguous, channels_last or any view.
        sigma: standard deviation, pixels, > 0; the kernel is cut at 4 sigma.
        mask: bool `[B,H,W]`, False for pixels that do not exist.

    Returns:
        `[B,C,H,W]` of the same dtype; pixels that are masked or not finite are returned as they came.

    Raises:
        TypeError: `images` are not floating, or the mask is not bool.
        ValueError: shapes do not fit, or sigma is not positive.

    Note:
        Differentiable, twice too. Deterministic, with the same bits for any number of threads. A padded image is
        smoothed as the image without its padding. Sums in float32 (float64 for float64); the cost grows with sigma.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> dk.gaussian_blur(torch.ones(1, 3, 5, 5), sigma=0.7).allclose(torch.ones(1, 3, 5, 5))
        True
    """
    check_tensors(images=(images, "B C H W", FLOATING), mask=(mask, "B H W?", torch.bool))
    check_float("sigma", sigma, above=0)
    if torch.is_grad_enabled() and images.requires_grad:
        return _GaussianBlur.apply(images, mask, sigma)
    return ops.gaussian_blur(images, mask, sigma)[0]
