"""Information criteria of segments and tree nodes, from their moments alone."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import register_fake

from .._checks import check_choice, check_float, check_tensors
from .._schema import ops
from .segment_moments import Moments

CRITERIA = ("aic", "aicc", "bic", "hqc", "cic", "mdl")


@register_fake("dhvt_kernels::information_criterion")
def _(
    count: Tensor,
    m2: Tensor,
    boundary: Tensor,
    num_pixels: Tensor,
    criterion: str,
    noise: float,
    pixel_correlation: float,
) -> tuple[Tensor, Tensor]:
    return m2.new_empty(count.shape), m2.new_empty(count.shape)


@register_fake("dhvt_kernels::information_criterion_backward")
def _(grad_likelihood: Tensor, count: Tensor, m2: Tensor, noise: float, pixel_correlation: float) -> Tensor:
    return m2.new_empty(m2.shape)


class _InformationCriterion(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        count: Tensor,
        m2: Tensor,
        boundary: Tensor,
        num_pixels: Tensor,
        criterion: str,
        noise: float,
        pixel_correlation: float,
    ) -> tuple[Tensor, Tensor]:
        likelihood, penalty = ops.information_criterion(
            count, m2, boundary, num_pixels, criterion, noise, pixel_correlation
        )
        ctx.save_for_backward(count, m2)
        ctx.noise, ctx.pixel_correlation = noise, pixel_correlation
        ctx.mark_non_differentiable(penalty)
        return likelihood, penalty

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        count, m2 = ctx.saved_tensors
        grad = ops.information_criterion_backward(grads[0], count, m2, ctx.noise, ctx.pixel_correlation)
        return None, grad, None, None, None, None, None


def criterion_terms(
    moments: Moments,
    *,
    criterion: str = "bic",
    noise: float = 16.0,
    pixel_correlation: float = 4.0,
    num_pixels: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The two terms of an information criterion of every segment or tree node: likelihood and penalty.

    With ``v_c = Q_c / n + noise``, ``rho = pixel_correlation``, ``d = 2 C`` parameters and ``N = num_pixels``::

        likelihood = -2 ln L / rho = sum_c [n ln(2 pi v_c) + Q_c / v_c] / rho

    ========= ==================================================
    criterion penalty
    ========= ==================================================
    aic       2 d
    aicc      2 d + 2 d (d + 1) / max(n/rho - d - 1, 1)
    bic       d ln(N/rho)
    hqc       2 d ln ln(N/rho)
    cic       d (ln(N/rho) + 1)
    mdl       d ln(1 + n/rho) + ln(3) boundary / sqrt(rho)
    ========= ==================================================

    N/rho is taken to be at least 4, so every penalty is positive. No penalty of a node exceeds the sum of its
    children's, which makes the best cuts at rising strength nested.

    Args:
        moments: of V segments or nodes per image; only `count` int32 [B,V], `m2` float32 or float64 [B,V,C] and
            `boundary` int32 [B,V] are read.
        criterion: `"aic"`, `"aicc"`, `"bic"`, `"hqc"`, `"cic"` or `"mdl"`.
        noise: variance of noise, texture and quantization, in squared units of the features; > 0.
        pixel_correlation: pixels per independent sample; > 0, and 1 is the textbook formula.
        num_pixels: int32 [B], the pixels of each image that have a segment. Default: the sum of the counts, right for
            a partition; nodes of a tree count their pixels once per level, so pass the sum over the leaves.

    Returns:
        (likelihood, penalty), each [B,V] in the dtype of `m2`; both are 0 where the count is 0.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an unknown criterion, a number out of range, or shapes that do not agree.

    Note:
        Gradients flow from the likelihood to `m2`, ``(v_c + noise) / (v_c^2 rho)``; the penalty does not depend on it.
        There is no double backward. Results are bitwise equal for any number of threads. Costs one read of the
        statistics, a logarithm per node; computed in float64 and rounded once. A NaN in m2 stays in its node.

        Source: Akaike 1974; Hurvich and Tsai 1989; Schwarz 1978; Hannan and Quinn 1979; Bozdogan 1987 (as cic);
        Rissanen 1978.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> labels = torch.zeros(1, 8, 8, dtype=torch.int32)
        >>> moments = dk.segment_moments(torch.zeros(1, 1, 8, 8), labels, num_segments=1)
        >>> likelihood, penalty = dk.criterion_terms(moments, criterion="aic", noise=1.0, pixel_correlation=1.0)
        >>> penalty.item(), round(likelihood.item(), 3)  # 64 ln(2 pi)
        (4.0, 117.624)
    """
    if not isinstance(moments, Moments):
        raise TypeError(f"moments: expected Moments; found {type(moments).__name__}")
    check_tensors(
        count=(moments.count, "B V", torch.int32),
        m2=(moments.m2, "B V C", (torch.float32, torch.float64)),
        boundary=(moments.boundary, "B V", torch.int32),
        num_pixels=(num_pixels, "B?", torch.int32),
    )
    check_choice("criterion", criterion, CRITERIA)
    noise = check_float("noise", noise, above=0)
    pixel_correlation = check_float("pixel_correlation", pixel_correlation, above=0)
    if num_pixels is None:
        num_pixels = moments.count.sum(1, dtype=torch.int32)
    arguments = (moments.count, moments.m2, moments.boundary, num_pixels, criterion, noise, pixel_correlation)
    if torch.is_grad_enabled() and moments.m2.requires_grad:
        return _InformationCriterion.apply(*arguments)
    return ops.information_criterion(*arguments)


def information_criterion(
    moments: Moments,
    *,
    criterion: str = "bic",
    noise: float = 16.0,
    pixel_correlation: float = 4.0,
    strength: float | Tensor = 1.0,
    num_pixels: Tensor | None = None,
) -> Tensor:
    """An information criterion of every segment or tree node: ``likelihood + strength * penalty``.

    The two terms, and what they cost, are those of `criterion_terms`. The sum over the segments of a partition is
    the partition's criterion; with `"bic"` and `pixel_correlation=1` it is the textbook ``-2 ln L + k ln n``, where k
    counts all parameters.

    Args:
        moments: of V segments or nodes per image, see `criterion_terms`.
        criterion: `"aic"`, `"aicc"`, `"bic"`, `"hqc"`, `"cic"` or `"mdl"`.
        noise: variance of noise, texture and quantization, in squared units of the features; > 0.
        pixel_correlation: pixels per independent sample; > 0, and 1 is the textbook formula.
        strength: weight of the penalty; a number >= 0, or a floating tensor [B,1].
        num_pixels: int32 [B], the pixels of each image that have a segment. Default: the sum of the counts.

    Returns:
        [B,V] in the dtype of `moments.m2`; 0 where the count is 0.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an unknown criterion, a number out of range, or shapes that do not agree.

    Note:
        Gradients flow to `moments.m2`, without double backward, and to `strength` if it is a tensor. Results are
        bitwise equal for any number of threads.

        Source: as in `criterion_terms`.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> labels = torch.zeros(1, 8, 8, dtype=torch.int32)
        >>> moments = dk.segment_moments(torch.zeros(1, 1, 8, 8), labels, num_segments=1)
        >>> cost = dk.information_criterion(moments, criterion="aic", noise=1.0, pixel_correlation=1.0)
        >>> cost.shape, round(cost.item(), 3)  # 64 ln(2 pi) + 4
        (torch.Size([1, 1]), 121.624)
    """
    likelihood, penalty = criterion_terms(
        moments, criterion=criterion, noise=noise, pixel_correlation=pixel_correlation, num_pixels=num_pixels
    )
    if isinstance(strength, Tensor):
        check_tensors(
            count=(moments.count, "B V", torch.int32), strength=(strength, "B 1", (torch.float32, torch.float64))
        )
        strength = strength.to(likelihood.dtype)
    else:
        strength = check_float("strength", strength, minimum=0)
    return likelihood + strength * penalty
