"""Pooling over segments, and its transpose."""

from typing import Any

import torch
from torch import Tensor
from torch.library import register_fake

from .._checks import FLOATING, LABELS, accumulation_dtype, check_choice, check_int, check_tensors
from .._layout import image_format, is_channels_last
from .._schema import ops

REDUCTIONS = ("mean", "sum", "max")


@register_fake("dhvt_kernels::segment_sum")
def _(features: Tensor, labels: Tensor, weights: Tensor | None, num_segments: int) -> tuple[Tensor, Tensor]:
    batch, channels = features.shape[:2]
    dtype = accumulation_dtype(features.dtype)
    sums = features.new_empty(batch, num_segments, channels, dtype=dtype)
    return sums, features.new_empty(batch, num_segments, dtype=dtype)


@register_fake("dhvt_kernels::segment_gather")
def _(values: Tensor, labels: Tensor, weights: Tensor | None, channels_last: bool) -> Tensor:
    batch, height, width = labels.shape
    out = values.new_empty(batch, values.shape[2], height, width)
    return out.contiguous(memory_format=image_format(channels_last))


@register_fake("dhvt_kernels::segment_dot")
def _(values: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    return features.new_empty(labels.shape, dtype=accumulation_dtype(features.dtype))


@register_fake("dhvt_kernels::segment_max")
def _(features: Tensor, labels: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    size = (features.shape[0], num_segments, features.shape[1])
    return features.new_empty(size), features.new_empty(size, dtype=torch.int32)


def needs_grad(*inputs: Tensor | None) -> bool:
    """Whether a call has to be recorded; if not, the operator alone is called, which is faster."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)


# The three derivatives of sum_i w_i sum_c values[k_i,c] features[i,c]. The backward of each is made of the other two,
# so every order of differentiation exists. A gradient has the dtype of its input; sums have the accumulation dtype.


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, labels: Tensor, weights: Tensor | None, num_segments: int
    ) -> tuple[Tensor, Tensor]:
        sums, mass = ops.segment_sum(features, labels, weights, num_segments)
        # The features are needed for the gradient of the weights only.
        ctx.save_for_backward(labels, weights, features if ctx.needs_input_grad[2] else None)
        ctx.dtype, ctx.channels_last = features.dtype, is_channels_last(features)
        if weights is None:
            ctx.mark_non_differentiable(mass)
        return sums, mass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        labels, weights, features = ctx.saved_tensors
        grad_sums, grad_mass = grads
        grad_features = grad_weights = None
        if ctx.needs_input_grad[0]:
            grad_features = gather(grad_sums.to(ctx.dtype), labels, weights, ctx.channels_last)
        if ctx.needs_input_grad[2]:
            of_mass = gather(grad_mass.unsqueeze(-1), labels, None, False).squeeze(1)
            grad_weights = (dot(grad_sums, features, labels) + of_mass).to(weights.dtype)
        return grad_features, None, grad_weights, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, labels: Tensor, weights: Tensor | None, channels_last: bool) -> Tensor:
        ctx.save_for_backward(labels, weights, values if ctx.needs_input_grad[2] else None)
        ctx.num_segments, ctx.dtype = values.shape[1], values.dtype
        return ops.segment_gather(values, labels, weights, channels_last)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        labels, weights, values = ctx.saved_tensors
        grad_values = grad_weights = None
        if ctx.needs_input_grad[0]:
            grad_values = segment_sum(grad, labels, weights, ctx.num_segments)[0].to(ctx.dtype)
        if ctx.needs_input_grad[2]:
            grad_weights = dot(values, grad, labels).to(weights.dtype)
        return grad_values, None, grad_weights, None


class _Dot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(values, features, labels)
        return ops.segment_dot(values, features, labels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, features, labels = ctx.saved_tensors
        grad_values = grad_features = None
        if ctx.needs_input_grad[0]:
            grad_values = segment_sum(features, labels, grad, values.shape[1])[0].to(values.dtype)
        if ctx.needs_input_grad[1]:
            grad_features = gather(values.to(features.dtype), labels, grad, is_channels_last(features))
        return grad_values, grad_features, None


class _Max(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, labels: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
        values, index = ops.segment_max(features, labels, num_segments)
        ctx.save_for_backward(index)
        ctx.shape = features.shape
        ctx.mark_non_differentiable(index)
        return values, index

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (index,) = ctx.saved_tensors
        batch, channels, height, width = ctx.shape
        grad = grads[0].new_zeros(batch, channels, height * width)
        if grad.numel() > 0:
            # A pixel is in one segment, so nothing is added twice; empty segments add 0 to the first pixel.
            source = torch.where(index >= 0, grads[0], 0).transpose(1, 2)
            grad = grad.scatter_add(2, index.clamp(min=0).long().transpose(1, 2), source)
        return grad.reshape(batch, channels, height, width), None, None


def segment_sum(features: Tensor, labels: Tensor, weights: Tensor | None, num_segments: int) -> tuple[Tensor, Tensor]:
    """The operator with gradients and without validation, for other operators: sums [B,K,C], mass [B,K]."""
    call = _Sum.apply if needs_grad(features, weights) else ops.segment_sum
    return call(features, labels, weights, num_segments)


def gather(values: Tensor, labels: Tensor, weights: Tensor | None, channels_last: bool) -> Tensor:
    """The operator with gradients and without validation, for other operators: [B,C,H,W]."""
    call = _Gather.apply if needs_grad(values, weights) else ops.segment_gather
    return call(values, labels, weights, channels_last)


def dot(values: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """The operator with gradients and without validation, for other operators: [B,H,W]."""
    call = _Dot.apply if needs_grad(values, features) else ops.segment_dot
    return call(values, features, labels)


def segment_pool(
    features: Tensor, labels: Tensor, *, num_segments: int, reduce: str = "mean", weights: Tensor | None = None
) -> Tensor:
    """Pool features over each segment.

    With `S_k` the pixels of segment `k`:

        sum:   out_k = sum over S_k of w_i f_i
        mean:  out_k = (sum over S_k of w_i f_i) / (sum over S_k of w_i)
        max:   out_k = max over S_k of f_i, per channel

    Args:
        features: `[B,C,H,W]`, any floating dtype, contiguous or channels_last (read where they lie).
        labels: `[B,H,W]` int32, the segment of each pixel; any id outside `[0, K)` is no segment.
        num_segments: `K`, the capacity of segments per image.
        reduce: `"mean"`, `"sum"` or `"max"`.
        weights: `[B,H,W]`, any floating dtype: the weight `w_i` of each pixel, 1 if not given. Not for `"max"`.

    Returns:
        `[B,K,C]` in the dtype of the features; 0 for a segment without pixels, and for a mean whose weights sum to 0.

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: shapes that do not agree, a negative `num_segments`, an unknown `reduce`, or weights with `"max"`.

    Note:
        Gradients flow to features and weights; double backward, of any order, exists. The maximum passes its gradient
        to its first pixel in raster order; NaN counts as the maximum, as in `torch.max`. Sums are taken in float32
        (float64 for float64), in an order that does not depend on the number of threads: results are bitwise
        reproducible. The features are read once; the labels are not sorted.

    Example:
        >>> import torch
        >>> import dhvt_kernels as dk
        >>> features = torch.tensor([[[[1.0, 3.0, 5.0]]]])
        >>> labels = torch.tensor([[[0, 0, 1]]], dtype=torch.int32)
        >>> dk.segment_pool(features, labels, num_segments=2)
        tensor([[[2.],
                 [5.]]])
    """
    check_tensors(
        features=(features, "B C H W", FLOATING),
        labels=(labels, "B H W", LABELS),
        weights=(weights, "B H W?", FLOATING),
    )
    check_int("num_segments", num_segments, 0)
    check_choice("reduce", reduce, REDUCTIONS)
    if reduce == "max":
        if weights is not None:
            raise ValueError("weights: expected None for reduce='max'; found a tensor")
        call = _Max.apply if needs_grad(features) else ops.segment_max
        return call(features, labels, num_segments)[0]
    sums, mass = segment_sum(features, labels, weights, num_segments)
    if reduce == "mean" and weights is None:
        sums = sums / mass.clamp(min=1).unsqueeze(-1)
    elif reduce == "mean":  # weights of both signs can sum to 0 where the features do not
        empty = (mass == 0).unsqueeze(-1)
        sums = (sums / mass.unsqueeze(-1).masked_fill(empty, 1)).masked_fill(empty, 0)
    return sums.to(features.dtype)


def segment_gather(values: Tensor, labels: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Write the value of each segment to its pixels: the transpose of the sum over segments.

        out_i = w_i values[k_i] for a pixel i of segment k_i, 0 for a pixel without a segment

    Args:
        values: `[B,K,C]`, any floating dtype.
        labels: `[B,H,W]` int32, the segment of each pixel; any id outside `[0, K)` is no segment.
        weights: `[B,H,W]`, any floating dtype: the weight `w_i` of each pixel, 1 if not given.

    Returns:
        `[B,C,H,W]` in the dtype of the values, contiguous.

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: shapes that do not agree.

    Note:
        Gradients flow to values and weights; double backward, of any order, exists. Bitwise reproducible for any number
        of threads. Every output element is written once.

    Example:
        >>> import torch
        >>> import dhvt_kernels as dk
        >>> labels = torch.tensor([[[0, 0, 1, -1]]], dtype=torch.int32)
        >>> dk.segment_gather(torch.tensor([[[2.0], [5.0]]]), labels)
        tensor([[[[2., 2., 5., 0.]]]])
    """
    check_tensors(
        values=(values, "B K C", FLOATING), labels=(labels, "B H W", LABELS), weights=(weights, "B H W?", FLOATING)
    )
    return gather(values, labels, weights, False)
