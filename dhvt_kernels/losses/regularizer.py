"""`L_reg`: as many tokens as wanted, and soft superpixels with the boundaries of the image or of its classes."""

from torch import Tensor

from .._checks import check_float
from ..partition import Partition
from .alignment import alignment_loss, check_partition


def token_count_loss(partition: Partition, target: float) -> Tensor:
    """How far the expected number of tokens is from a target.

        mean over the images of (expected tokens / target - 1)^2

    Args:
        partition: of B images.
        target: number of tokens per image, > 0.

    Returns:
        Scalar; 0 for a batch of no images.

    Raises:
        TypeError: no partition, or no number.
        ValueError: a target that is not above 0.

    Note:
        The gradient reaches the tokenizer's features through `Partition.expected_tokens`, the relaxed selection. With a
        budget the strength that meets it is a constant.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> partition = dk.GridTokenizer(8)(torch.rand(1, 3, 16, 16))
        >>> dk.losses.token_count_loss(partition, target=2)
        tensor(1.)
    """
    check_partition(partition)
    check_float("target", target, above=0)
    return (partition.expected_tokens / target - 1).square().sum() / max(len(partition), 1)


def token_regularizer(
    partition: Partition,
    target: float,
    *,
    labels: Tensor | None = None,
    images: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """`L_reg`, to be added to the loss of the task with a weight.

        L_reg = token_count_loss(partition, target) + alignment_loss(partition, labels=... or images=...)

    Args:
        partition: of a tokenizer with soft leaves.
        target: number of tokens per image, > 0.
        labels: `[B,H,W]`, int64, int32 or uint8: semantic classes; or None.
        images: `[B,C,H,W]`, floating, in any units; or None.
        ignore_index: label of pixels that do not count.

    Returns:
        Scalar, float32 (float64 for float64 features).

    Raises:
        TypeError, ValueError: as the two.

    Note:
        Gradients, determinism and cost: see the two.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> images = torch.rand(1, 3, 32, 32)
        >>> tokenizer = dk.Tokenizer(dk.ConvEncoder(), noise=0.1, compactness=0.5, temperature=0.05)
        >>> dk.losses.token_regularizer(tokenizer(images), 16, images=images).backward()
    """
    count = token_count_loss(partition, target)
    return count + alignment_loss(partition, labels=labels, images=images, ignore_index=ignore_index)
