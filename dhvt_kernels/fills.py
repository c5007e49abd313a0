"""What segments are filled with: their mean colour, or a linear gradient, fitted in closed form."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Along an axis with less variance, in squared pixels, the pixels of a segment lie at one place.
_LEAST_SPREAD = 1e-6


class Fills(NamedTuple):
    """Of K segments: the colour at position p is `mean + slope * (direction . (p - centroid))`, C channels."""

    count: Floats  # type: ignore[assignment]  # tuples have a method of this name
    """[K]: pixels."""
    mean: Floats
    """[K,C]: mean colour, 0..255."""
    centroid: Floats
    """[K,2]: mean pixel centre, `y` before `x`; pixel centres are whole numbers."""
    direction: Floats
    """[K,2]: unit vector along which the colour changes most, `y` before `x`."""
    slope: Floats
    """[K,C]: change of the colour per pixel in that direction; 0 where the colour changes linearly nowhere."""
    spread: Floats
    """[K]: standard deviation of the positions in that direction, in pixels."""
    error: Floats
    """[K]: sum of squared errors of the mean colour."""
    linear_error: Floats
    """[K]: sum of squared errors of the linear gradient."""


def fit_fills(sums: NDArray[np.generic]) -> Fills:
    """Mean colours and the best gradients in one direction, least squares, from the sums of `color_sums`.

    With S the scatter of the positions and A = cov(p, c) [2,C] their covariance with the colours, the best plane has
    the slopes S^-1 A; the best of rank one keeps the first singular direction of S^-1/2 A, and explains its share.

    Args:
        sums: [K, 6 + 4 C], rows of `color_sums` or sums of such rows.

    Returns:
        `Fills`; zeros for segments without pixels.

    Note:
        float64 on the CPU, in time proportional to K.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> from dhvt_kernels.fills import fit_fills
        >>> image = torch.arange(8, dtype=torch.uint8).mul(10).expand(1, 4, 8)
        >>> fills = fit_fills(dk.color_sums(image, torch.zeros(4, 8, dtype=torch.int32), num_segments=1).numpy())
        >>> fills.mean[0], abs(fills.slope * fills.direction[:, 1:]).round(9), fills.linear_error.round(6)
        (array([35.]), array([[10.]]), array([0.]))
    """
    values = sums.astype(np.float64)
    count = values[:, 0]
    n = np.maximum(count, 1)
    place, colors = values[:, :6] / n[:, None], values[:, 6:].reshape(len(values), -1, 4) / n[:, None, None]
    centroid, mean = place[:, 1:3], colors[..., 0]
    yy = place[:, 3] - centroid[:, 0] ** 2
    yx = place[:, 4] - centroid[:, 0] * centroid[:, 1]
    xx = place[:, 5] - centroid[:, 1] ** 2
    covariance = colors[..., 1:3].swapaxes(1, 2) - centroid[:, :, None] * mean[:, None, :]  # [K,2,C]
    variance = np.maximum(colors[..., 3] - mean**2, 0).sum(1)
    scatter = np.stack([yy, yx, yx, xx], -1).reshape(-1, 2, 2)
    lengths, axes = np.linalg.eigh(scatter)
    whitening = np.where(lengths > _LEAST_SPREAD, 1 / np.sqrt(np.maximum(lengths, _LEAST_SPREAD)), 0)
    whiten = axes * whitening[:, None, :] @ axes.swapaxes(1, 2)
    white = whiten @ covariance
    strength, turned = np.linalg.eigh(white @ white.swapaxes(1, 2))
    first = turned[:, :, 1]  # of the larger eigenvalue
    along = np.einsum("ki,kij->kj", first, whiten)  # per standard deviation
    norm = np.linalg.norm(along, axis=1)
    direction = np.divide(along, norm[:, None], out=np.tile([0.0, 1.0], (len(norm), 1)), where=norm[:, None] > 0)
    slope = np.einsum("ki,kic->kc", first, white) * norm[:, None]
    spread = np.sqrt(np.maximum(np.einsum("ki,kij,kj->k", direction, scatter, direction), 0))
    explained = strength[:, 1]
    return Fills(
        count,
        mean,
        centroid,
        direction,
        slope,
        spread,
        count * variance,
        count * np.maximum(variance - explained, 0),
    )
