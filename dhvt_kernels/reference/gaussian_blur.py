"""Gaussian smoothing over the pixels that exist."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .._checks import accumulation_dtype


def gaussian_blur(images: Tensor, mask: Tensor | None, sigma: float) -> tuple[Tensor, Tensor]:
    """Blurred images, and the sum of the weights of each pixel; 0 where a pixel does not exist."""
    values = images.to(accumulation_dtype(images.dtype))
    exists = values.sum(1, keepdim=True).isfinite()
    if mask is not None:
        exists = exists & mask[:, None]
    total = torch.where(exists, _smooth(exists.to(values.dtype), sigma), 0)
    blurred = _smooth(torch.where(exists, values, 0), sigma) / torch.where(exists, total, 1)
    return torch.where(exists, blurred, values).to(images.dtype), total[:, 0]


def gaussian_blur_backward(grad: Tensor, total: Tensor, sigma: float) -> Tensor:
    """The adjoint of the blur: the division comes before the sum."""
    values = grad.to(total.dtype)
    exists = total[:, None] > 0
    shares = torch.where(exists, values / torch.where(exists, total[:, None], 1), 0)
    return torch.where(exists, _smooth(shares, sigma), values).to(grad.dtype)


def _smooth(channels: Tensor, sigma: float) -> Tensor:
    """Convolution with the kernel cut at 4 sigma, zero outside the image."""
    for dim in (-1, -2):
        size = channels.shape[dim]
        radius = max(int(min(4 * sigma + 0.5, size - 1)), 0)  # there is nothing beyond the image
        padded = F.pad(channels, [radius, radius] if dim == -1 else [0, 0, radius, radius])
        out = channels
        for d in range(1, radius + 1):
            weight = math.exp(-0.5 * (d / sigma) ** 2)
            out = out + weight * (padded.narrow(dim, radius - d, size) + padded.narrow(dim, radius + d, size))
        channels = out
    return channels
