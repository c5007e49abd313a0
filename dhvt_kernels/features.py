"""Pixel features: smoothed CIELAB, and a small learned encoder."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._checks import check_float, check_int, check_tensors
from .ops import srgb_to_lab


def gaussian_blur(images: Tensor, *, sigma: float, mask: Tensor | None = None) -> Tensor:
    """Gaussian smoothing that stops at the border, at masked pixels and at NaN.

    `out_i = sum_j w_ij x_j / sum_j w_ij` over the pixels j that exist: inside the image, inside the mask, and finite.

    Args:
        images: `[B,C,H,W]` float32 or float64.
        sigma: standard deviation, pixels, > 0; the kernel is cut at 4 sigma.
        mask: bool `[B,H,W]`, False for pixels that do not exist.

    Returns:
        `[B,C,H,W]`; pixels that are masked or not finite are returned as they came.

    Raises:
        TypeError: not float32 or float64.
        ValueError: shapes do not fit, or sigma is not positive.

    Note:
        Differentiable, twice too. A padded image is smoothed as the image without its padding.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> dk.gaussian_blur(torch.ones(1, 3, 5, 5), sigma=0.7).allclose(torch.ones(1, 3, 5, 5))
        True
    """
    check_tensors(images=(images, "B C H W", (torch.float32, torch.float64)), mask=(mask, "B H W?", torch.bool))
    check_float("sigma", sigma, above=0)
    exists = images.sum(1, keepdim=True).isfinite()
    if mask is not None:
        exists = exists & mask[:, None]
    channels = torch.cat([torch.where(exists, images, 0), exists.to(images.dtype)], 1)
    for dim in (-1, -2):
        radius = max(int(min(4 * sigma + 0.5, channels.shape[dim] - 1)), 0)  # there is nothing beyond the image
        weights = [math.exp(-0.5 * (d / sigma) ** 2) for d in range(radius + 1)]
        channels = _smooth(channels, weights, dim)
    return torch.where(exists, channels[:, :-1] / channels[:, -1:].clamp_min(1e-12), images)


def _smooth(channels: Tensor, weights: list[float], dim: int) -> Tensor:
    """Convolution with a symmetric kernel along one dimension, zero outside."""
    size, radius = channels.shape[dim], len(weights) - 1
    padding = [radius, radius] if dim == -1 else [0, 0, radius, radius]
    padded = F.pad(channels, padding)
    out = weights[0] * channels
    for d in range(1, radius + 1):
        out = out + weights[d] * (padded.narrow(dim, radius - d, size) + padded.narrow(dim, radius + d, size))
    return out


class SmoothedLab(nn.Module):
    """The default features: CIELAB in raw units (L in 0..100), smoothed by a Gaussian.

    Args:
        sigma: standard deviation of the smoothing, pixels; 0 for none.
    """

    def __init__(self, sigma: float = 0.7) -> None:
        super().__init__()
        self.sigma = check_float("sigma", sigma, minimum=0)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B,3,H,W]` sRGB in [0, 1] or uint8 -> `[B,3,H,W]` float32 (float64 for float64)."""
        lab = srgb_to_lab(images)
        return gaussian_blur(lab, sigma=self.sigma, mask=mask) if self.sigma > 0 else lab

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}"


class ConvEncoder(nn.Module):
    """A small learned encoder: colour beside a strided branch for context.

    `[B,3,H,W]` images in [0, 1] (or uint8) to `[B,C,H,W]` features of unit scale, any H and W >= 1. The strided branch
    sees 16 pixels around each pixel; its output is brought back by bilinear interpolation, and a pointwise layer mixes
    the two. Choose `noise` of the tokenizer for features of unit scale, about 0.01.

    Args:
        channels: number of features, C.
        hidden: width of the strided branch.
    """

    def __init__(self, channels: int = 8, hidden: int = 32) -> None:
        super().__init__()
        check_int("channels", channels, 1)
        check_int("hidden", hidden, 1)
        self.context = nn.Sequential(
            nn.Conv2d(3, hidden, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, stride=2, padding=1),
            nn.GELU(),
        )
        self.mix = nn.Conv2d(3 + hidden, channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        """`[B,3,H,W]` -> `[B,C,H,W]`."""
        if images.dtype == torch.uint8:
            images = images.to(self.mix.weight.dtype) / 255
        context = F.interpolate(self.context(images), size=images.shape[-2:], mode="bilinear", align_corners=False)
        return self.mix(torch.cat([images, context.to(images.dtype)], 1))
