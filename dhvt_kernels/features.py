"""Pixel features: smoothed CIELAB, and a small learned encoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._checks import check_float, check_int, check_tensors

#: sRGB primaries to CIE XYZ, D65 (IEC 61966-2-1), rows divided by the white point.
_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_WHITE = (0.95047, 1.0, 1.08883)
_DELTA = 6 / 29


def srgb_to_lab(images: Tensor) -> Tensor:
    """sRGB to CIELAB (D65).

    `L = 116 g(Y) - 16, a = 500 (g(X) - g(Y)), b = 200 (g(Y) - g(Z))`, `g(t) = t^(1/3)` above `(6/29)^3`, else linear;
    X, Y, Z relative to the white point, from linear light.

    Args:
        images: `[B,3,H,W]`, sRGB in [0, 1] of any floating dtype, or uint8 in [0, 255]. Values outside [0, 1] are
            extrapolated.

    Returns:
        `[B,3,H,W]` float32 (float64 for float64): L in 0..100, a and b about -110..110. Half types are computed in
        float32.

    Raises:
        TypeError: not floating and not uint8.
        ValueError: not `[B,3,H,W]`.

    Note:
        Differentiable, twice too. NaN stays in its pixel. Computed in float32 under autocast, too.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> dk.srgb_to_lab(torch.ones(1, 3, 1, 1)).flatten().round().tolist()
        [100.0, 0.0, 0.0]
    """
    check_tensors(
        images=(images, "B 3 H W", (torch.uint8, torch.float32, torch.float16, torch.bfloat16, torch.float64))
    )
    with torch.autocast(images.device.type, enabled=False):
        srgb = images if images.dtype == torch.float64 else images.float()
        if images.dtype == torch.uint8:
            srgb = srgb / 255
        # The clamps keep the gradient of the branch that is not taken finite.
        power = ((srgb.clamp_min(0.04045) + 0.055) / 1.055).pow(2.4)
        linear = torch.where(srgb <= 0.04045, srgb / 12.92, power)
        xyz_rows = [[entry / white for entry in row] for row, white in zip(_XYZ, _WHITE, strict=True)]
        xyz = _mix(linear, xyz_rows)
        cube_root = xyz.clamp_min(_DELTA**3).pow(1 / 3)
        g = torch.where(xyz > _DELTA**3, cube_root, xyz / (3 * _DELTA**2) + 4 / 29)
        lab = _mix(g, [[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])
        return lab - lab.new_tensor([16.0, 0.0, 0.0]).reshape(1, 3, 1, 1)


def _mix(channels: Tensor, matrix: list[list[float]]) -> Tensor:
    """A linear map of the channels [B,C,H,W]."""
    return torch.einsum("ij,bjhw->bihw", channels.new_tensor(matrix), channels).contiguous()


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
    check_tensors(images=(images, "B C H W", (torch.float32, torch.float64)), mask=(mask, "B H W", torch.bool))
    check_float("sigma", sigma, above=0)
    exists = images.sum(1, keepdim=True).isfinite()
    if mask is not None:
        exists = exists & mask[:, None]
    channels = torch.cat([torch.where(exists, images, 0), exists.to(images.dtype)], 1)
    radius = int(4 * sigma + 0.5)
    weights = [float(torch.exp(torch.tensor(-0.5 * (d / sigma) ** 2, dtype=torch.float64))) for d in range(radius + 1)]
    for dim in (-1, -2):
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
    """A small learned encoder: a pointwise branch for colour beside a strided branch for context.

    `[B,3,H,W]` images in [0, 1] (or uint8) to `[B,C,H,W]` features of unit scale, any H and W >= 1. The strided branch
    sees 16 pixels around each pixel; its output is brought back by bilinear interpolation. Choose `noise` of the
    tokenizer for features of unit scale, about 0.01.

    Args:
        channels: number of features, C.
        hidden: width of the strided branch.
    """

    def __init__(self, channels: int = 8, hidden: int = 32) -> None:
        super().__init__()
        check_int("channels", channels, 1)
        check_int("hidden", hidden, 1)
        self.pointwise = nn.Conv2d(3, channels, 1)
        self.context = nn.Sequential(
            nn.Conv2d(3, hidden, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(hidden, channels, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """`[B,3,H,W]` -> `[B,C,H,W]`."""
        if images.dtype == torch.uint8:
            images = images.to(self.pointwise.weight.dtype) / 255
        context = F.interpolate(self.context(images), size=images.shape[-2:], mode="bilinear", align_corners=False)
        return self.pointwise(images) + context
