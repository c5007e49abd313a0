"""Pixel features: smoothed CIELAB, and a small learned encoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._checks import check_float, check_int
from .ops import gaussian_blur, srgb_to_lab


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
