"""The regular grid of patches as a tokenizer: what a Vision Transformer does without one."""

import torch
from torch import Tensor, nn

from .._checks import FLOATING, check_int, check_tensors
from ..ops import relabel, segment_pool
from ..partition import Partition


class GridTokenizer(nn.Module):
    """Squares of `size x size` pixels, row by row: on it a retrofitted model computes what the original computes.

    The last squares of a row and column are cut off at the border. The features are the mean colours.

    Args:
        size: side of a square, pixels.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> dk.GridTokenizer(16)(torch.rand(1, 3, 32, 40)).counts.tolist()
        [6]
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = check_int("size", size, 1)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Partition:
        """Images `[B,C,H,W]`, float; squares without a pixel of the mask (bool `[B,H,W]`) are left out."""
        check_tensors(images=(images, "B C H W", FLOATING), mask=(mask, "B H W?", torch.bool))
        batch, _, height, width = images.shape
        columns, device = -(-width // self.size), images.device
        capacity = -(-height // self.size) * columns
        y = torch.arange(height, device=device, dtype=torch.int32) // self.size
        x = torch.arange(width, device=device, dtype=torch.int32) // self.size
        labels = (y[:, None] * columns + x).repeat(batch, 1, 1)
        counts = labels.new_full((batch,), capacity)
        if mask is not None:
            labels = torch.where(mask, labels, -1)
            pixels = segment_pool(mask[:, None].float(), labels, num_segments=capacity, reduce="sum")
            used = pixels[..., 0] > 0
            labels = relabel(labels, used.cumsum(1, dtype=torch.int32) - 1)
            counts = used.sum(1, dtype=torch.int32)
        features = segment_pool(images, labels, num_segments=capacity)
        node = torch.arange(capacity, device=device, dtype=torch.int32).repeat(batch, 1)
        used = node < counts[:, None]
        return Partition(
            labels=labels,
            counts=counts,
            num_segments=capacity,
            node=torch.where(used, node, -1),
            strength=features.new_ones(batch),
            cost=features.new_zeros(batch),
            probability=used.to(features.dtype),
            expected_tokens=counts.to(features.dtype),
            node_features=features,
        )

    def extra_repr(self) -> str:
        return f"size={self.size}"
