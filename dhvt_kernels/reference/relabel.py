"""Looking labels up in a table."""

import torch
from torch import Tensor


def relabel(labels: Tensor, table: Tensor) -> Tensor:
    """out[b,y,x] = table[b, labels[b,y,x]], -1 outside the table."""
    size = table.shape[1]
    if size == 0:
        return torch.full_like(labels, -1, memory_format=torch.contiguous_format)
    inside = (labels >= 0) & (labels < size)
    index = torch.where(inside, labels, 0).flatten(1).long()
    return torch.where(inside, table.gather(1, index).reshape(labels.shape), -1).contiguous()
