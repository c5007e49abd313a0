"""Likelihood and penalty of every node; the terms of design section 3.4."""

import math

import torch
from torch import Tensor


def _penalty(criterion: str, d: int, n: Tensor, boundary: Tensor, num_pixels: Tensor, rho: float) -> Tensor:
    """The penalty of nodes with n pixels [B,V] of num_pixels [B,1], all float64."""
    samples, log_samples = n / rho, (num_pixels / rho).clamp(min=4).log()
    if criterion == "aic":
        return torch.full_like(n, 2 * d)
    if criterion == "aicc":
        return 2 * d + 2 * d * (d + 1) / (samples - d - 1).clamp(min=1)
    if criterion == "bic":
        return d * log_samples.expand_as(n)
    if criterion == "hqc":
        return 2 * d * log_samples.log().expand_as(n)
    if criterion == "cic":
        return d * (log_samples + 1).expand_as(n)
    if criterion == "mdl":
        return d * samples.log1p() + math.log(3) * boundary / math.sqrt(rho)
    raise RuntimeError(f"criterion: expected one of aic, aicc, bic, hqc, cic, mdl; found {criterion}")


def information_criterion(
    count: Tensor,
    m2: Tensor,
    boundary: Tensor,
    num_pixels: Tensor,
    criterion: str,
    noise: float,
    pixel_correlation: float,
) -> tuple[Tensor, Tensor]:
    """-2 ln L / rho of the diagonal Gaussian, and the penalty, of every node [B,V]; both 0 for an empty node."""
    n, q = count.double(), m2.double()
    variance = q / n.clamp(min=1).unsqueeze(-1) + noise
    likelihood = (n.unsqueeze(-1) * (2 * math.pi * variance).log() + q / variance).sum(-1) / pixel_correlation
    penalty = _penalty(
        criterion, 2 * m2.shape[2], n, boundary.double(), num_pixels.double().unsqueeze(-1), pixel_correlation
    )
    used = count > 0
    return torch.where(used, likelihood, 0).to(m2.dtype), torch.where(used, penalty, 0).to(m2.dtype)


def information_criterion_backward(
    grad_likelihood: Tensor, count: Tensor, m2: Tensor, noise: float, pixel_correlation: float
) -> Tensor:
    """Derivative of the likelihood with respect to m2: (v + noise) / (v^2 rho)."""
    variance = m2.double() / count.clamp(min=1).unsqueeze(-1) + noise
    derivative = (variance + noise) / (variance**2 * pixel_correlation)
    grad = grad_likelihood.double().unsqueeze(-1) * derivative
    asked = (count > 0) & (grad_likelihood != 0)  # no gradient gives none, even to NaN
    return torch.where(asked.unsqueeze(-1), grad, 0).to(m2.dtype)
