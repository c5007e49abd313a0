"""The loss of pretraining a tokenizer's encoder: images painted with a linear map of the segments' features."""

import torch
from torch import Tensor, nn

from .._checks import FLOATING, accumulation_dtype, check_tensors
from ..injection import MeanInjection
from ..ops import segment_gather
from ..partition import Partition
from .alignment import check_partition


def reconstruction_loss(images: Tensor, partition: Partition, injection: nn.Module) -> Tensor:
    """How far an image is from the colours that its segments' features stand for.

        mean over the pixels i that have a segment of |x_i - (W f_k(i) + b)|^2

    with the features `f_k` of segment k, and the squared norm over the channels. It is least where `W f_k + b` is the
    segment's mean, so it falls as features tell the mean, and as segments are of one colour.

    Args:
        images: `[B,C,H,W]`, floating, such as sRGB in [0, 1].
        partition: of these images, with F features.
        injection: `MeanInjection`, or a linear layer from F features to C channels.

    Returns:
        Scalar, float32 (float64 for float64); 0 without segments.

    Raises:
        TypeError: not a tensor, another dtype, no partition, or no module.
        ValueError: shapes that do not agree.

    Note:
        Gradients reach W and b, the tokenizer's features, through `Partition.features` and its selection, and the
        images. Deterministic. Writes one image and reads it again.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> images = torch.rand(2, 3, 32, 32)
        >>> encoder, injection = dk.ConvEncoder(8), dk.MeanInjection(8)
        >>> partition = dk.Tokenizer(encoder, noise=0.1, compactness=0.5, temperature=0.05)(images)
        >>> dk.losses.reconstruction_loss(images, partition, injection).backward()
    """
    check_partition(partition)
    linear = injection.linear if isinstance(injection, MeanInjection) else injection
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"injection: expected MeanInjection or nn.Linear; found {type(injection).__name__}")
    check_tensors(labels=(partition.labels, "B H W", torch.int32), images=(images, "B C H W", FLOATING))
    expected = [partition.node_features.shape[-1], images.shape[1]]
    if [linear.in_features, linear.out_features] != expected:
        raise ValueError(
            f"injection: expected a linear map of {expected[0]} features to {expected[1]} channels; "
            f"found of {linear.in_features} to {linear.out_features}"
        )
    dtype = accumulation_dtype(images.dtype)
    colours = linear(partition.features.to(linear.weight.dtype)).to(dtype)
    inside = (partition.labels >= 0) & (partition.labels < partition.num_segments)
    error = (images.to(dtype) - segment_gather(colours, partition.labels)).square().sum(1)
    return torch.where(inside, error, 0).sum() / inside.sum().clamp(min=1)
