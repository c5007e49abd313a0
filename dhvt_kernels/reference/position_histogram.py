"""The share of each segment's pixels in each cell of a grid."""

import torch
from torch import Tensor


def position_histogram(
    labels: Tensor, sizes: Tensor | None, num_segments: int, grid_height: int, grid_width: int
) -> Tensor:
    """out[b,k,gy,gx] = pixels of k with y * gh // height == gy and x * gw // width == gx, over all pixels of k."""
    batch, full_height, full_width = labels.shape
    if sizes is None:
        sizes = torch.tensor([[full_height, full_width]], device=labels.device).expand(batch, 2)
    height = sizes[:, 0].long().clamp(0, full_height)[:, None, None]
    width = sizes[:, 1].long().clamp(0, full_width)[:, None, None]
    y = torch.arange(full_height, device=labels.device)[None, :, None]
    x = torch.arange(full_width, device=labels.device)[None, None, :]
    inside = (labels >= 0) & (labels < num_segments) & (y < height) & (x < width)
    cell = y * grid_height // height.clamp(min=1) * grid_width + x * grid_width // width.clamp(min=1)
    cells = grid_height * grid_width
    index = torch.where(inside, labels * cells + cell, num_segments * cells).flatten(1)
    counts = torch.zeros(batch, num_segments * cells + 1, dtype=torch.int64, device=labels.device)
    counts.scatter_add_(1, index, torch.ones_like(index))
    counts = counts[:, :-1].reshape(batch, num_segments, grid_height, grid_width)
    return counts.float() / counts.sum((2, 3), keepdim=True).clamp(min=1).float()
