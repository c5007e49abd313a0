"""The loss of dense prediction."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .._checks import FLOATING, INT32_MAX, accumulation_dtype, check_float, check_int, check_tensors
from ..ops import segment_pool

CLASSES = (torch.int64, torch.int32, torch.uint8)


def dice_cross_entropy(logits: Tensor, target: Tensor, *, ignore_index: int = 255, dice_weight: float = 1.0) -> Tensor:
    """Cross-entropy of every pixel, and Dice of every class that an image has.

    With `p = softmax(logits)`, the target `t_ic` 1 for the class of pixel i and else 0, and sums over the pixels of an
    image that are not ignored::

        loss = mean over i of -ln p_i,t(i)  +  dice_weight * mean over (b, c) of 1 - (2 sum_i p_ic t_ic + 1)
                                                                                     / (sum_i p_ic + sum_i t_ic + 1)

    The first mean is over the pixels of the batch that are not ignored, the second over the pairs of an image b and a
    class c of which it has a pixel. A mean of nothing is 0.

    Args:
        logits: `[B,C,H,W]`, any floating dtype.
        target: `[B,H,W]`, int64, int32 or uint8: class of each pixel, `0 <= target < C`, or `ignore_index`.
        ignore_index: target of pixels that do not count, such as padding, whatever their logits are; an integer, of any
            sign.
        dice_weight: weight of the second term, >= 0.

    Returns:
        Scalar, float32 (float64 for float64).

    Raises:
        TypeError: not tensors, or another dtype.
        ValueError: shapes that do not agree, or a target that is no class. The latter is looked for on the CPU only: on
            a GPU it fails as an index out of range does, because the test would wait for the device.

    Note:
        Gradients reach the logits. All sums are in float32. Deterministic. The backward keeps two arrays of the size of
        the logits, in float32; there is no one-hot target.

    Source:
        Milletari et al., V-Net, 2016, with the constant 1 of Cheng et al., MaskFormer, 2021: the masks of an image are
        its classes, and the probabilities a softmax over the classes.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> target = torch.tensor([[[0, 1, 255]]])
        >>> logits = 20 * torch.tensor([[[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]]])
        >>> round(dk.losses.dice_cross_entropy(logits, target).item(), 4)
        0.0
        >>> round(dk.losses.dice_cross_entropy(0 * logits, target).item(), 4)  # ln 2 + 1 - 2 / 3
        1.0265
    """
    classes = check_tensors(logits=(logits, "B C H W", FLOATING), target=(target, "B H W", CLASSES))["C"]
    check_float("dice_weight", dice_weight, minimum=0)
    target = target.long()  # in uint8 a negative index would be another one
    valid = target != check_index(ignore_index)
    target = torch.where(valid, target, 0)
    if target.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = target[(target < 0) | (target >= classes)]
        if wrong.numel():
            raise ValueError(
                f"target: expected [B,H,W] of classes 0 to {classes - 1}, or {ignore_index}; found {int(wrong[0])}"
            )
    # An ignored pixel may have any logits: they go before anything is computed, so that no gradient meets them either.
    logits = torch.where(valid.unsqueeze(1), logits, 0)
    log_probability = F.log_softmax(logits.to(accumulation_dtype(logits.dtype)), 1)
    picked = log_probability.gather(1, target.unsqueeze(1))  # [B,1,H,W]
    weight = valid.to(picked.dtype)
    cross_entropy = -(picked[:, 0] * weight).sum() / weight.sum().clamp(min=1)

    labels = torch.where(valid, target, -1).int()
    overlap = segment_pool(picked.exp(), labels, num_segments=classes, reduce="sum")[..., 0]
    size = segment_pool(torch.ones_like(picked), labels, num_segments=classes, reduce="sum")[..., 0]
    with torch.autocast(logits.device.type, enabled=False):
        mass = (log_probability.exp().flatten(2) @ weight.flatten(1).unsqueeze(-1))[..., 0]  # [B,C]
    dice = 1 - (2 * overlap + 1) / (mass + size + 1)
    present = size > 0
    return cross_entropy + dice_weight * (dice * present).sum() / present.sum().clamp(min=1)


def check_index(ignore_index: int) -> int:
    """An integer of any sign, within int32."""
    return check_int("ignore_index", ignore_index, -INT32_MAX)
