"""Likelihood and penalty of every node, and the derivative of the likelihood: one lane per node, all in float64."""

import math

import torch
from torch import Tensor

from ..ops.information_criterion import CRITERIA
from ._checked import checked
from ._lanes import lanes
from ._language import cdiv, jit, tl
from ._launch import launch

BLOCK = 256
LEAST, LARGEST = tl.constexpr(1e-290), tl.constexpr(1e290)
LN_TWO_PI = tl.constexpr(math.log(2 * math.pi))
LN_3 = tl.constexpr(math.log(3))


@jit
def _likelihood(m2, n, here, channels, NOISE: tl.constexpr, RHO: tl.constexpr):
    """sum_c [n ln(2 pi v_c) + Q_c / v_c] / rho, with one logarithm and one division for many channels: of the product
    of the variances, over which the fractions are brought, as long as float64 holds it."""
    share = 1 / n
    logs, fit = tl.zeros_like(n), tl.zeros_like(n)
    product, numerator = logs + 1, tl.zeros_like(n)
    c = 0
    while c < channels:
        q = tl.load(m2 + c, mask=here, other=0).to(tl.float64)
        variance = q * share + NOISE
        following = product * variance
        held = (following > LEAST) & (following < LARGEST)
        if tl.min(held.to(tl.int32)) == 0:
            logs = tl.where(held, logs, logs + tl.log(product))
            fit = tl.where(held, fit, fit + numerator / product)
        numerator = tl.where(held, numerator * variance + q * product, q)
        product = tl.where(held, following, variance)
        c += 1
    logs += tl.log(product)
    fit += numerator / product
    return (n * (tl.cast(channels, tl.float64) * LN_TWO_PI + logs) + fit) / RHO


@jit
def _log1p(x):
    """ln(1 + x) for x >= 0, exact for small x, too."""
    y = 1 + x
    return tl.where(y == 1, x, tl.log(y) * (x / tl.where(y == 1, 1, y - 1)))


@jit
def _criterion_kernel(
    count,  # [B,V]
    m2,  # [B,V,C]
    boundary,  # [B,V]
    num_pixels,  # [B]
    likelihood,  # [B,V]
    penalty,  # [B,V]
    nodes,  # V
    all_nodes,  # B V
    channels,
    CRITERION: tl.constexpr,
    NOISE: tl.constexpr,
    RHO: tl.constexpr,
    ROOT_RHO: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Reads 8 + 4 C bytes per node and writes 8."""
    node, here = lanes(all_nodes, BLOCK)
    found = tl.load(count + node, mask=here, other=0)
    n = tl.maximum(found, 1).to(tl.float64)
    used = found > 0
    value = _likelihood(m2 + node * channels, n, here, channels, NOISE, RHO)
    tl.store(likelihood + node, tl.where(used, value, 0), mask=here)
    d = 2.0 * tl.cast(channels, tl.float64)  # a mean and a variance per channel
    of_image = tl.load(num_pixels + node // nodes, mask=here, other=1).to(tl.float64) / RHO
    log_samples = tl.log(tl.maximum(of_image, 4.0))
    if CRITERION == "bic":
        cost = d * log_samples
    elif CRITERION == "hqc":
        cost = 2 * d * tl.log(log_samples)
    elif CRITERION == "cic":
        cost = d * (log_samples + 1)
    elif CRITERION == "mdl":
        length = tl.load(boundary + node, mask=here, other=0).to(tl.float64)
        cost = d * _log1p(n / RHO) + LN_3 * length / ROOT_RHO
    else:
        cost = 2 * d + tl.zeros_like(n)
        if CRITERION == "aicc":
            cost += 2 * d * (d + 1) / tl.maximum(n / RHO - d - 1, 1.0)
    tl.store(penalty + node, tl.where(used, cost, 0), mask=here)


@jit
def _criterion_backward_kernel(
    grad,  # [B,V]
    count,  # [B,V]
    m2,  # [B,V,C]
    out,  # [B,V,C]
    numbers,  # B V C
    channels,
    NOISE: tl.constexpr,
    RHO: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One lane per number: reads and writes m2 once, 8 C bytes per node."""
    number, here = lanes(numbers, BLOCK)
    node = number // channels
    found = tl.load(count + node, mask=here, other=0)
    upstream = tl.load(grad + node, mask=here, other=0).to(tl.float64)
    q = tl.load(m2 + number, mask=here, other=0).to(tl.float64)
    variance = q / tl.maximum(found, 1).to(tl.float64) + NOISE
    value = upstream * ((variance + NOISE) / (variance * variance * RHO))
    asked = (found > 0) & (upstream != 0)  # a node that is not asked stays out, even where its m2 is NaN
    tl.store(out + number, tl.where(asked, value, 0), mask=here)


@checked(count="int32 B V", m2="accumulated B V C", boundary="int32 B V", num_pixels="int32 B", criterion=CRITERIA)
def information_criterion(
    count: Tensor,
    m2: Tensor,
    boundary: Tensor,
    num_pixels: Tensor,
    criterion: str,
    noise: float,
    pixel_correlation: float,
) -> tuple[Tensor, Tensor]:
    """-2 ln L / rho and the penalty of every node [B,V]; both 0 for an empty node."""
    likelihood, penalty = m2.new_empty(count.shape), m2.new_empty(count.shape)
    launch(
        _criterion_kernel,
        cdiv(count.numel(), BLOCK),
        m2,
        count.contiguous(),
        m2.contiguous(),
        boundary.contiguous(),
        num_pixels.contiguous(),
        likelihood,
        penalty,
        count.shape[1],
        count.numel(),
        m2.shape[2],
        CRITERION=criterion,
        NOISE=noise,
        RHO=pixel_correlation,
        ROOT_RHO=math.sqrt(pixel_correlation) if pixel_correlation >= 0 else math.nan,
        BLOCK=BLOCK,
    )
    return likelihood, penalty


@checked(count="int32 B V", m2="accumulated B V C", grad_likelihood="same B V")
def information_criterion_backward(
    grad_likelihood: Tensor, count: Tensor, m2: Tensor, noise: float, pixel_correlation: float
) -> Tensor:
    """Derivative of the likelihood with respect to m2 [B,V,C]."""
    out = torch.empty(m2.shape, dtype=m2.dtype, device=m2.device)
    launch(
        _criterion_backward_kernel,
        cdiv(m2.numel(), BLOCK),
        m2,
        grad_likelihood.contiguous(),
        count.contiguous(),
        m2.contiguous(),
        out,
        m2.numel(),
        m2.shape[2],
        NOISE=noise,
        RHO=pixel_correlation,
        BLOCK=BLOCK,
    )
    return out
