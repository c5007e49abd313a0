"""Count, mean, squared deviations, centroid, box and boundary length of every segment."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import register_fake

from .._checks import FLOATING, LABELS, accumulation_dtype, check_int, check_tensors
from .._layout import empty_image_like
from .._schema import ops


class Moments(NamedTuple):
    """What is known of every segment of a partition, or of every node of a tree.

    Floating tensors are float32, float64 for float64 features.
    """

    #: Number of pixels: int32 [B,K].
    count: Tensor  # type: ignore[assignment]  # tuple.count is hidden
    #: Mean of the features: [B,K,C].
    mean: Tensor
    #: Sum of squared deviations from the mean: [B,K,C].
    m2: Tensor
    #: Mean position of the pixels, (y, x) in pixels: [B,K,2].
    centroid: Tensor
    #: Inclusive bounding box (ymin, xmin, ymax, xmax): int32 [B,K,4]; (0, 0, -1, -1) for an empty segment.
    box: Tensor
    #: Number of 4-neighbour pairs with one pixel inside and the other in another segment: int32 [B,K].
    boundary: Tensor


@register_fake("dhvt_kernels::segment_moments")
def _(features: Tensor, labels: Tensor, num_segments: int) -> tuple[Tensor, ...]:
    batch, channels = features.shape[:2]
    dtype = accumulation_dtype(features.dtype)
    count = labels.new_empty(batch, num_segments)
    mean = features.new_empty(batch, num_segments, channels, dtype=dtype)
    centroid = features.new_empty(batch, num_segments, 2, dtype=dtype)
    box = labels.new_empty(batch, num_segments, 4)
    return count, mean, torch.empty_like(mean), centroid, box, torch.empty_like(count)


@register_fake("dhvt_kernels::segment_moments_backward")
def _(grad_mean: Tensor, grad_m2: Tensor, features: Tensor, labels: Tensor, count: Tensor, mean: Tensor) -> Tensor:
    return empty_image_like(features, features.dtype)


class _SegmentMoments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, labels: Tensor, num_segments: int) -> tuple[Tensor, ...]:
        count, mean, m2, centroid, box, boundary = ops.segment_moments(features, labels, num_segments)
        ctx.save_for_backward(features, labels, count, mean)
        ctx.mark_non_differentiable(count, centroid, box, boundary)
        return count, mean, m2, centroid, box, boundary

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        features, labels, count, mean = ctx.saved_tensors
        return ops.segment_moments_backward(grads[1], grads[2], features, labels, count, mean), None, None


def segment_moments(features: Tensor, labels: Tensor, *, num_segments: int) -> Moments:
    """Statistics of every segment, in one pass over the pixels.

    With S_k the pixels of segment k: ``n_k = |S_k|``, ``mean_kc = sum_{i in S_k} f_ic / n_k``,
    ``m2_kc = sum_{i in S_k} (f_ic - mean_kc)^2``.

    Args:
        features: [B,C,H,W] of float16, bfloat16, float32 or float64; contiguous, channels_last or any other view, read
            where it lies.
        labels: [B,H,W] of int32. A pixel whose label is outside [0, K), as in the padding of a smaller image, belongs
            to no segment and counts like the outside of the image: it makes no boundary.
        num_segments: K, the number of segments of every image.

    Returns:
        `Moments(count, mean, m2, centroid, box, boundary)`, int32 and float32 (float64 for float64 features). An empty
        segment has zeros everywhere, and the box (0, 0, -1, -1).

    Raises:
        TypeError: an argument is not a tensor or has another dtype.
        ValueError: shapes do not agree, or num_segments is negative.

    Note:
        Gradients flow to `features` through `mean` and `m2`; there is no double backward. Results are bitwise equal
        for any number of threads. Each run of equal labels along a row gives its mean and squared deviations, which are
        merged by the pairwise formula: a large offset of the features costs no accuracy, as it would in
        E[x^2] - E[x]^2. Costs one read of the features and labels; labels are not sorted. NaN and infinity stay in the
        segments that hold them. A segment's boundary counts pixel pairs, so it is the length of its outline inside the
        image in pixels.

        Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
        1979.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> features = torch.tensor([[[[1.0, 3.0, 5.0]]]])
        >>> labels = torch.tensor([[[0, 0, 1]]], dtype=torch.int32)
        >>> moments = dk.segment_moments(features, labels, num_segments=2)
        >>> moments.mean.flatten(), moments.m2.flatten()
        (tensor([2., 5.]), tensor([2., 0.]))
        >>> moments.box[0].tolist(), moments.boundary[0].tolist()
        ([[0, 0, 0, 1], [0, 2, 0, 2]], [1, 1])
    """
    check_tensors(features=(features, "B C H W", FLOATING), labels=(labels, "B H W", LABELS))
    check_int("num_segments", num_segments, 0)
    if torch.is_grad_enabled() and features.requires_grad:
        return Moments(*_SegmentMoments.apply(features, labels, num_segments))
    return Moments(*ops.segment_moments(features, labels, num_segments))
