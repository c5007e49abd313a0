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
    """A small learned encoder, that of the published method: colour, plus context from two strided convolutions.

    `[B,3,H,W]` images in [0, 1] (or uint8) to `[B,C,H,W]` features of about unit scale, any H and W >= 1::

        SiLU(norm(conv 1x1) + upsampled(norm(conv 2x2, stride 2), SiLU, norm(conv 2x2, stride 2)))

    The context is one value per 4 x 4 pixels, brought back by bilinear interpolation between the corners; where 4 does
    not divide H or W, the last row and column are repeated before and cut off after. `norm` is batch normalisation: in
    training mode the features of an image depend on its batch. Choose `noise` of the tokenizer for features of unit
    scale, about 0.1.

    Args:
        channels: number of features, C.
        hidden: width of the context between its two convolutions.
    """

    def __init__(self, channels: int = 8, hidden: int = 32) -> None:
        super().__init__()
        check_int("channels", channels, 1)
        check_int("hidden", hidden, 1)
        self.color = nn.Sequential(nn.Conv2d(3, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.context = nn.Sequential(
            nn.Conv2d(3, hidden, 2, stride=2, bias=False),
            nn.BatchNorm2d(hidden),
            nn.SiLU(),
            nn.Conv2d(hidden, channels, 2, stride=2, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, images: Tensor) -> Tensor:
        """`[B,3,H,W]` -> `[B,C,H,W]`."""
        if images.dtype == torch.uint8:
            images = images.to(next(self.parameters()).dtype) / 255
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % 4, 0, -height % 4), mode="replicate")
        context = self.context(padded)
        context = F.interpolate(context, size=padded.shape[-2:], mode="bilinear", align_corners=True)
        return F.silu(self.color(images) + context[..., :height, :width])
