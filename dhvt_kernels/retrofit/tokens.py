"""As many tokens as a model is to see: budgets, truncation and padding of partitions."""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ..ops import relabel
from ..partition import Partition


def _changed(partition: Partition, **changes: Any) -> Partition:
    kept = {field.name: getattr(partition, field.name) for field in fields(Partition) if field.name not in changes}
    return Partition(**kept, **changes)


def trim(partition: Partition, length: int) -> Partition:
    """The same segments in `length` slots; none may lie beyond."""
    return _changed(
        partition,
        num_segments=length,
        node=partition.node[:, :length],
        probability=partition.probability[:, :length],
    )


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


def key_padding(counts: Tensor, length: int) -> Tensor | None:
    """bool `[B,length]`, False for padding; None where all rows are full, so that attention needs no mask.

    To know that, the host reads one value; where it cannot (in a compiled or captured graph) there is always a mask.
    """
    mask = torch.arange(length, device=counts.device) < counts[:, None]
    if torch.compiler.is_compiling() or (counts.is_cuda and torch.cuda.is_current_stream_capturing()):
        return mask
    return None if bool(mask.all()) else mask
