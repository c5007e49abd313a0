"""Looking labels up in a table."""

import torch
from torch import Tensor


def relabel(labels: Tensor, table: Tensor) -> Tensor:
    """out[b,y,x] = table[b, labels[b,y,x]], -1 outside the table; the same with each of N tables."""
    if table.dim() == 3:
        return (
            torch.stack([relabel(labels, one) for one in table]) if len(table) else labels.new_empty(0, *labels.shape)
        )
    size = table.shape[1]
    if size == 0:
        return torch.full_like(labels, -1, memory_format=torch.contiguous_format)
    inside = (labels >= 0) & (labels < size)
    index = torch.where(inside, labels, 0).flatten(1).long()
    return torch.where(inside, table.gather(1, index).reshape(labels.shape), -1).contiguous()
