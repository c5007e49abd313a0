"""Colour in which distances mean something."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import register_fake

from .._checks import FLOATING, accumulation_dtype, check_tensors
from .._layout import empty_image_like
from .._schema import ops


@register_fake("dhvt_kernels::srgb_to_lab")
def _(images: Tensor) -> Tensor:
    return images.new_empty(images.shape, dtype=accumulation_dtype(images.dtype))


@register_fake("dhvt_kernels::srgb_to_lab_backward")
def _(grad: Tensor, images: Tensor) -> Tensor:
    return empty_image_like(images, images.dtype)


class _SrgbToLab(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        ctx.save_for_backward(images)
        return ops.srgb_to_lab(images)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return ops.srgb_to_lab_backward(grad, *ctx.saved_tensors)


def srgb_to_lab(images: Tensor) -> Tensor:
    """Convert sRGB to CIELAB (D65).

    `L = 116 g(Y) - 16, a = 500 (g(X) - g(Y)), b = 200 (g(Y) - g(Z))` with `g(t) = t^(1/3)` above `(6/29)^3` and linear
    below; X, Y, Z are relative to the white point and come from linear light.

    Args:
        images: `[B,3,H,W]`, sRGB in [0, 1] of float16, bfloat16, float32 or float64, or uint8 in [0, 255]; contiguous,
            channels_last or any view. Values outside [0, 1] are extrapolated.

    Returns:
        `[B,3,H,W]` float32 (float64 for float64): L in 0..100, a and b about -110..110.

    Raises:
        TypeError: neither floating nor uint8.
        ValueError: not `[B,3,H,W]`.

    Note:
        Gradients to floating images; no double backward. Deterministic, with the same bits for any number of threads
        and any layout, which torch's own pow does not give. NaN stays in its pixel. One pass over the
        pixels; about 1 ulp of float32 in L.

    Source:
        CIE 15:2004, 8.2.1; IEC 61966-2-1.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> dk.srgb_to_lab(torch.ones(1, 3, 1, 1)).flatten().round().abs().tolist()
        [100.0, 0.0, 0.0]
    """
    check_tensors(images=(images, "B 3 H W", (torch.uint8, *FLOATING)))
    if torch.is_grad_enabled() and images.requires_grad:
        return _SrgbToLab.apply(images)
    return ops.srgb_to_lab(images)
