"""As many tokens as a model is to see: budgets, truncation and padding of partitions."""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ..ops import Moments, relabel
from ..partition import Partition


def _changed(partition: Partition, **changes: Any) -> Partition:
    kept = {field.name: getattr(partition, field.name) for field in fields(Partition) if field.name not in changes}
    return Partition(**kept, **changes)


def information(partition: Partition, images: Tensor) -> Tensor:
    """`[B,K]`: what an image loses with a segment; -1 in unused slots.

        I_k = sum over the segment's pixels of |x - mean of the image|^2

    It is the squared error of painting the segment in the mean colour of its image.
    """
    moments = partition.moments(images.detach())
    count = moments.count.unsqueeze(-1).to(moments.mean.dtype)
    center = (count * moments.mean).sum(1, keepdim=True) / count.sum(1, keepdim=True).clamp(min=1)
    total = (moments.m2 + count * (moments.mean - center).square()).sum(-1)
    return torch.where(partition.node >= 0, total, -1)


def windows(moments: Moments, size: int, ends: Tensor) -> Tensor:
    """`[B,K,4]` int32: squares around the centroids of the segments, as large as these, but at least `size` pixels.

        side_k = max(P, min(round(sqrt(n_k)), H, W))

    Inclusive `(ymin, xmin, ymax, xmax)`, moved into the image, whose (H, W) are `ends`, int32 `[B or 1,2]`: its
    segments may leave its border out. An empty segment keeps its empty box.
    """
    last = ends.unsqueeze(1) - 1
    side = moments.count.unsqueeze(-1).to(moments.centroid.dtype).sqrt().round()
    side = side.minimum(last.amin(2, keepdim=True) + 1).clamp(min=size)
    start = (moments.centroid - (side - 2) / 2).floor().int()
    rest = side.int() - 1
    start = torch.minimum(start, last - rest).clamp(min=0)
    return torch.where(moments.count.unsqueeze(-1) > 0, torch.cat([start, start + rest], -1), moments.box)


def truncate(partition: Partition, images: Tensor, length: int) -> Partition:
    """At most `length` segments: those of most information, in their order; of equals the first."""
    if partition.num_segments <= length:
        return partition
    order = information(partition, images).argsort(dim=1, descending=True, stable=True)
    kept = order[:, :length].sort(dim=1).values
    keep = torch.zeros_like(partition.node, dtype=torch.bool).scatter(1, kept, True)
    table = torch.where(keep, keep.cumsum(1, dtype=torch.int32) - 1, -1)
    return _changed(
        partition,
        labels=relabel(partition.labels, table),
        counts=partition.counts.clamp(max=length),
        num_segments=length,
        node=partition.node.gather(1, kept),
        probability=partition.probability.gather(1, kept),
    )


def compact(partition: Partition) -> tuple[Partition, Tensor | None, list[int] | None]:
    """The same segments in as many slots as the batch needs, which of them are filled, and how many.

    The mask is bool `[B,N]`, or None where all are filled, so that attention needs none. For that the host reads the
    counts; where it cannot, in a compiled or captured graph, there are all slots, always a mask, and no numbers.

    Raises:
        ValueError: the host finds an image without a segment.
    """
    counts = partition.counts
    compiled = torch.compiler.is_compiling() or (counts.is_cuda and torch.cuda.is_current_stream_capturing())
    numbers: list[int] | None = None
    if not compiled and len(partition):
        numbers = counts.tolist()
        if min(numbers) < 1:
            raise ValueError(f"partition: expected at least one segment in every image; found counts {numbers}")
        partition = partition.trim(max(numbers))
    mask = torch.arange(partition.num_segments, device=counts.device) < counts[:, None]
    if numbers is not None and min(numbers) == max(numbers):
        return partition, None, numbers
    return partition, mask, numbers
