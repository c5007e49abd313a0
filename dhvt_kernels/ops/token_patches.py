"""Boxes of the image resampled to P x P, with masks."""

from typing import Any

import torch
from torch import Tensor
from torch.library import register_fake

from .._checks import FLOATING, LABELS, check_int, check_tensors
from .._schema import ops
from .segment_pool import needs_grad


@register_fake("dhvt_kernels::token_patches")
def _(image: Tensor, labels: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    batch, num_segments = boxes.shape[:2]
    patches = image.new_empty(batch, num_segments, image.shape[1], size, size)
    return patches, image.new_empty(batch, num_segments, 1, size, size)


@register_fake("dhvt_kernels::token_patches_backward")
def _(grad_patches: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    return grad_patches.new_empty(grad_patches.shape[0], grad_patches.shape[2], height, width)


class _TokenPatches(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, labels: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
        patches, masks = ops.token_patches(image, labels, boxes, size)
        ctx.save_for_backward(labels, boxes)
        ctx.mark_non_differentiable(masks)
        return patches, masks

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        labels, boxes = ctx.saved_tensors
        if needs_grad(grads[0]):
            return _Transpose.apply(grads[0], labels, boxes), None, None, None
        return ops.token_patches_backward(grads[0], boxes, *labels.shape[1:]), None, None, None


class _Transpose(torch.autograd.Function):
    """The gradient of the patches, linear in grad_patches: its own gradient is token_patches again."""

    @staticmethod
    def forward(ctx: Any, grad_patches: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
        ctx.save_for_backward(labels, boxes)
        ctx.size = grad_patches.shape[-1]
        return ops.token_patches_backward(grad_patches, boxes, *labels.shape[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        labels, boxes = ctx.saved_tensors
        return patches_and_masks(grad, labels, boxes, ctx.size)[0], None, None


def patches_and_masks(image: Tensor, labels: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The operator with gradients and without validation."""
    call = _TokenPatches.apply if needs_grad(image) else ops.token_patches
    return call(image, labels, boxes, size)


def token_patches(image: Tensor, labels: Tensor, boxes: Tensor, *, size: int) -> tuple[Tensor, Tensor]:
    """Resample the bounding box of each segment to `P x P` pixels.

    Sample `i` of an axis lies at `min + i (max - min) / (P - 1)`, for `P = 1` in the middle, so both ends are included
    and a `P x P` box is copied exactly. Values between pixels are bilinear. The mask is the bilinear share of the
    sample that belongs to segment `k`, that is, the same resampling of `labels == k`.

    Args:
        image: `[B,C,H,W]`, any floating dtype, contiguous or channels_last (read where it lies).
        labels: `[B,H,W]` int32, the segment of each pixel.
        boxes: `[B,K,4]` int32, inclusive `(ymin, xmin, ymax, xmax)` in pixels. Samples outside the image take the
            nearest pixel; a box with `ymax < ymin` or `xmax < xmin` is empty and gives zeros.
        size: `P`, the side of a patch in pixels.

    Returns:
        patches `[B,K,C,P,P]` and masks `[B,K,1,P,P]`, both in the dtype of the image.

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: shapes that do not agree, or a size below 1.

    Note:
        Gradients flow to the image; double backward, of any order, exists. Bitwise reproducible for any number of
        threads, forward and backward. Each pixel of a box is read at most once per channel.

    Example:
        >>> import torch
        >>> import dhvt_kernels as dk
        >>> image = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
        >>> labels = torch.tensor([[[0, 0], [0, -1]]], dtype=torch.int32)
        >>> boxes = torch.tensor([[[0, 0, 1, 1]]], dtype=torch.int32)
        >>> patches, masks = dk.token_patches(image, labels, boxes, size=3)
        >>> patches[0, 0, 0]
        tensor([[0.0000, 0.5000, 1.0000],
                [1.0000, 1.5000, 2.0000],
                [2.0000, 2.5000, 3.0000]])
        >>> masks[0, 0, 0, 2]
        tensor([1.0000, 0.5000, 0.0000])
    """
    check_tensors(
        image=(image, "B C H W", FLOATING), labels=(labels, "B H W", LABELS), boxes=(boxes, "B K 4", torch.int32)
    )
    check_int("size", size, 1)
    return patches_and_masks(image, labels, boxes, size)
