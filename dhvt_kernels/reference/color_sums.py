"""Sums of colours, positions and their products over segments."""

import torch
from torch import Tensor


def color_sums(image: Tensor, labels: Tensor, num_segments: int) -> Tensor:
    """One row of products for every pixel, added up by label."""
    height, width = labels.shape
    y = torch.arange(height, device=labels.device)[:, None].expand(height, width)
    x = torch.arange(width, device=labels.device).expand(height, width)
    columns = [torch.ones_like(y), y, x, y * y, y * x, x * x]
    for color in image.long():
        columns += [color, y * color, x * color, color * color]
    inside = (labels >= 0) & (labels < num_segments)
    sums = torch.zeros(num_segments, len(columns), dtype=torch.int64, device=labels.device)
    return sums.index_add_(0, labels[inside].long(), torch.stack(columns, -1)[inside])
