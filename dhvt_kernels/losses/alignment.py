"""Soft superpixels whose boundaries are those of the image, or of its classes."""

from typing import NamedTuple

import torch
from torch import Tensor

from .._checks import FLOATING, accumulation_dtype, check_tensors
from ..ops import soft_assign
from ..partition import Partition
from .dense import CLASSES, check_index

#: How near to 0 and 1 a boundary probability comes under the logarithm.
FLOOR = 1e-6


class BoundaryProbability(NamedTuple):
    """Result of `boundary_probability`, in float32 (float64 for float64 features)."""

    right: Tensor
    """[B,H,W-1]: between a pixel and its right neighbour."""
    below: Tensor
    """[B,H-1,W]: between a pixel and its lower neighbour."""
    valid: tuple[Tensor, Tensor]
    """bool, in the two shapes: both pixels belong to an image and have finite features."""


def boundary_probability(partition: Partition) -> BoundaryProbability:
    """How probable it is that two neighbouring pixels are of different soft superpixels.

        p_ik = 1 - sum over j of a_ij a_kj

    over the centres j that are candidates of both pixels, with the soft assignment `a` that the hierarchy was built on.
    The nine candidates of a pixel are those of its cell: where neighbours are of two cells, they have six in common.

    Args:
        partition: of a tokenizer with soft leaves.

    Returns:
        `BoundaryProbability(right [B,H,W-1], below [B,H-1,W], valid)`.

    Raises:
        TypeError: no partition.
        ValueError: its leaves are pixels or squares.

    Note:
        Gradients reach features, centres, compactness and temperature; no double backward. Deterministic. The
        tokenizer keeps no assignment: it is computed again, as one iteration of soft clustering, and takes 9 numbers
        per pixel, and as many again for the products.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> partition = dk.Tokenizer()(torch.rand(1, 3, 32, 32))
        >>> dk.losses.boundary_probability(partition).right.shape
        torch.Size([1, 32, 31])
    """
    check_partition(partition)
    soft = partition.soft
    if soft is None:
        raise ValueError(
            'partition: expected one of a Tokenizer with leaves="soft"; pixels and squares have no soft assignment. '
            "token_count_loss takes any partition"
        )
    shares = soft_assign(
        soft.features.to(accumulation_dtype(soft.features.dtype)),
        soft.clusters.centers,
        soft.clusters.positions,
        cell=soft.cell,
        compactness=soft.compactness,
        temperature=soft.temperature,
        mass=soft.clusters.mass,
        mask=soft.mask,
    ).assignment
    real = shares.detach().sum(1) > 0.5  # a pixel of no image has no share in any centre
    grid = shares.unflatten(1, (3, 3))
    below = _agreement(grid.permute(0, 2, 1, 4, 3), soft.cell).transpose(1, 2)
    return BoundaryProbability(1 - _agreement(grid, soft.cell), 1 - below, _both(real))


def alignment_loss(
    partition: Partition,
    *,
    labels: Tensor | None = None,
    images: Tensor | None = None,
    ignore_index: int = 255,
    balanced: bool = True,
) -> Tensor:
    """Cross-entropy between the boundaries of the soft superpixels and those that they should have.

        balanced:   1/2 (sum -t_ik ln p_ik) / (sum t_ik) + 1/2 (sum -(1 - t_ik) ln(1 - p_ik)) / (sum (1 - t_ik))
        otherwise:  mean of -t_ik ln p_ik - (1 - t_ik) ln(1 - p_ik)

    over the pairs (i, k) of horizontal and vertical neighbours of the batch, where `p` is `boundary_probability`. The
    target is that of `labels` or of `images`::

        t_ik = 1 where labels_i != labels_k, else 0                          pairs with an ignored pixel do not count
        t_ik = |x_i - x_k| / largest |x_i - x_k| of the image                the norm is over the channels

    Args:
        partition: of a tokenizer with soft leaves.
        labels: `[B,H,W]`, int64, int32 or uint8: semantic classes; or None.
        images: `[B,C,H,W]`, floating, in any units; or None.
        ignore_index: label of pixels that do not count.
        balanced: boundaries weigh as much as the rest; False: as many pairs as there are, a few in a hundred, and an
            encoder learns first to have no boundaries but those of the cells.

    Returns:
        Scalar, float32 (float64 for float64 features). A mean without pairs is 0.

    Raises:
        TypeError: another type or dtype.
        ValueError: both labels and images or none; shapes that do not agree; leaves that are pixels or squares.

    Note:
        Under the logarithm is `1e-6 + (1 - 2e-6) p`, so that it is finite everywhere. Pixels of no image (padding) and
        pixels with a feature, or a value of `images`, that is not finite do not count. Gradients as of
        `boundary_probability`; none to the images. Deterministic. Cost: see there.

    Source:
        The balance is that of Xie and Tu, Holistically-Nested Edge Detection, 2015, equation 2, with halves.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> images = torch.rand(1, 3, 32, 32)
        >>> partition = dk.Tokenizer()(images)
        >>> dk.losses.alignment_loss(partition, images=images).isfinite()
        tensor(True)
    """
    check_partition(partition)
    check_index(ignore_index)
    batch, height, width = partition.labels.shape
    if (labels is None) == (images is None):
        raise ValueError("labels, images: expected one of the two, as the source of the target")
    check_tensors(
        partition=(partition.labels, "B H W", torch.int32),
        labels=(labels, f"{batch} {height} {width}?", CLASSES),
        images=(images, f"{batch} C {height} {width}?", FLOATING),
    )
    right, below, valid = boundary_probability(partition)
    targets: tuple[Tensor, ...] = ()
    if images is not None:
        images = images.detach().to(right.dtype)
        known = _both(images.isfinite().all(1))
        valid = (valid[0] & known[0], valid[1] & known[1])
        targets = _image_gradient(images, valid)
    if labels is not None:
        targets = tuple((first != second).to(right.dtype) for first, second in _neighbours(labels))
        known = _both(labels.long() != ignore_index)  # in uint8 a negative index would be another one
        valid = (valid[0] & known[0], valid[1] & known[1])
    zero = right.new_zeros(())
    misses, alarms, wanted, rest = zero, zero, zero, zero
    for probability, target, counts in zip((right, below), targets, valid, strict=True):
        inner = FLOOR + (1 - 2 * FLOOR) * probability.clamp(0, 1)
        boundary, other = torch.where(counts, target, 0), torch.where(counts, 1 - target, 0)
        misses, alarms = misses - (boundary * inner.log()).sum(), alarms - (other * (1 - inner).log()).sum()
        wanted, rest = wanted + boundary.sum(), rest + other.sum()
    if balanced:
        return 0.5 * (_ratio(misses, wanted) + _ratio(alarms, rest))
    return _ratio(misses + alarms, wanted + rest)


def _ratio(total: Tensor, weight: Tensor) -> Tensor:
    """A mean; 0 where nothing weighs."""
    return total / weight.masked_fill(weight == 0, 1)


def _agreement(shares: Tensor, cell: int) -> Tensor:
    """`[B,H,W-1]`: `sum_j a_ij a_kj` of each pixel and its right neighbour; of shares `[B,3,3,H,W]` (dy, dx)."""
    first, second = shares[..., :-1], shares[..., 1:]
    same = (first * second).sum((1, 2))
    # Where the cell changes, the candidate (dy, dx) of a pixel is (dy, dx - 1) of its right neighbour.
    first, second = first[..., cell - 1 :: cell], second[..., cell - 1 :: cell]
    across = (first[:, :, 1:] * second[:, :, :-1]).sum((1, 2))
    last = torch.arange(same.shape[2], device=shares.device)[cell - 1 :: cell]
    return same.index_copy(2, last, across)


def _neighbours(values: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Of `[...,H,W]`: (pixels, their right neighbours), (pixels, their lower neighbours)."""
    return (values[..., :-1], values[..., 1:]), (values[..., :-1, :], values[..., 1:, :])


def _both(values: Tensor) -> tuple[Tensor, Tensor]:
    """Of bool `[...,H,W]`: whether it holds for both neighbours."""
    (left, right), (upper, lower) = _neighbours(values)
    return left & right, upper & lower


def _image_gradient(images: Tensor, valid: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """`|x_i - x_k|` of the neighbours, divided by the largest of the image; 0 where the image is flat."""
    size = [
        torch.where(counts, (first - second).square().sum(1).sqrt(), 0).flatten(1)
        for (first, second), counts in zip(_neighbours(images), valid, strict=True)
    ]
    largest = torch.cat([*size, images.new_zeros(len(images), 1)], 1).amax(1, keepdim=True)
    return tuple(
        (part / largest.masked_fill(largest == 0, 1)).reshape(counts.shape)
        for part, counts in zip(size, valid, strict=True)
    )


def check_partition(partition: Partition) -> None:
    """Raises TypeError."""
    if not isinstance(partition, Partition):
        raise TypeError(f"partition: expected a Partition; found {type(partition).__name__}")
