"""The image with the mean of each segment replaced by a learned value."""

from typing import Any

import torch
from torch import Tensor
from torch.library import register_fake

from .._checks import FLOATING, LABELS, check_tensors
from .._layout import empty_image_like
from .._schema import ops
from .segment_pool import needs_grad, segment_sum


@register_fake("dhvt_kernels::mean_inject")
def _(image: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
    return empty_image_like(image, image.dtype)


class _MeanInject(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(labels)
        ctx.size, ctx.dtype = tokens.shape, tokens.dtype
        return ops.mean_inject(image, tokens, labels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (labels,) = ctx.saved_tensors
        grad_image = grad_tokens = None
        if ctx.needs_input_grad[0]:  # g - mean_s(g): the operator itself, with tokens of zero
            grad_image = inject(grad, grad.new_zeros(ctx.size), labels)
        if ctx.needs_input_grad[1]:
            grad_tokens = segment_sum(grad, labels, None, ctx.size[1])[0].to(ctx.dtype)
        return grad_image, grad_tokens, None


def inject(image: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
    """The operator with gradients and without validation."""
    call = _MeanInject.apply if needs_grad(image, tokens) else ops.mean_inject
    return call(image, tokens, labels)


def mean_inject(image: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
    """Replace the mean of each segment by its token and keep the texture.

        out_i = x_i + (t_s - mean_s(x)) for a pixel i of segment s; a pixel without a segment is copied

    With `t_s = mean_s(x)` the image is unchanged.

    Args:
        image: `[B,C,H,W]`, any floating dtype, contiguous or channels_last (read where it lies).
        tokens: `[B,K,C]`, any floating dtype: the new mean `t_s` of each segment.
        labels: `[B,H,W]` int32, the segment of each pixel; any id outside `[0, K)` is no segment.

    Returns:
        `[B,C,H,W]` in the dtype of the image, channels_last if the image is, else contiguous.

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: shapes that do not agree.

    Note:
        Gradients flow to image and tokens; double backward, of any order, exists. Bitwise reproducible for any number
        of threads. The image is read twice and written once. Mean injection is step 5 of the published method,
        differentiable hierarchical visual tokenization (dHT).

    Example:
        >>> import torch
        >>> import dhvt_kernels as dk
        >>> image = torch.tensor([[[[1.0, 3.0, 5.0]]]])
        >>> labels = torch.tensor([[[0, 0, -1]]], dtype=torch.int32)
        >>> dk.mean_inject(image, torch.tensor([[[10.0]]]), labels)
        tensor([[[[ 9., 11.,  5.]]]])
    """
    check_tensors(
        image=(image, "B C H W", FLOATING), tokens=(tokens, "B K C", FLOATING), labels=(labels, "B H W", LABELS)
    )
    return inject(image, tokens, labels)
