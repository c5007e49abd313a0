"""Sums over segments, and the gather and dot that are their derivatives."""

import torch
from torch import Tensor


def segment_gather(values: Tensor, labels: Tensor, weights: Tensor | None, channels_last: bool) -> Tensor:
    """out[b,c,y,x] = weights[b,y,x] * values[b, labels[b,y,x], c]; 0 where a pixel has no segment."""
    batch, num_segments, channels = values.shape
    inside = (labels >= 0) & (labels < num_segments)
    if num_segments == 0:
        values, num_segments = values.new_zeros(batch, 1, channels), 1
    index = torch.where(inside, labels, 0).long().reshape(batch, -1, 1).expand(-1, -1, channels)
    out = values.gather(1, index).reshape(*labels.shape, channels)
    if weights is not None:
        out = out * weights.unsqueeze(-1)
    out = torch.where(inside.unsqueeze(-1), out, 0).permute(0, 3, 1, 2)
    return out.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
