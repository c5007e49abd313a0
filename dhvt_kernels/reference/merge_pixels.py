"""Merging of the pixels of an image into a binary tree: the general merging, on the graph of the pixels."""

import torch
from torch import Tensor

from .._checks import accumulation_dtype
from .merge_tree import merge_tree


def _pixel_edges(inside: Tensor) -> Tensor:
    """Pairs [B,E,2] of 4-neighbours; (0, 0), which is none, where one of them is not inside [B,H,W]."""
    height, width = inside.shape[1:]
    index = torch.arange(height * width, dtype=torch.int32, device=inside.device).reshape(1, height, width)
    pairs = []
    for dimension in (1, 2):
        size = max(inside.shape[dimension] - 1, 0)
        ends = [(inside.narrow(dimension, i, size), index.narrow(dimension, i, size)) for i in (0, min(1, size))]
        both = ends[0][0] & ends[1][0]
        pairs.append(torch.stack([torch.where(both, end, 0).flatten(1) for _, end in ends], -1))
    return torch.cat(pairs, 1)


def merge_pixels(
    features: Tensor, mask: Tensor | None, distance: str, compactness: float, depth: int, noise: float = 16.0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Leaf y W + x is the pixel (y, x); pixels outside the mask are unused leaves."""
    batch, _, height, width = features.shape
    inside = features.new_ones(batch, height, width, dtype=torch.bool) if mask is None else mask
    dtype = accumulation_dtype(features.dtype)
    edges = _pixel_edges(inside)
    touching = edges[..., 0] != edges[..., 1]
    boundary = edges.new_zeros(batch, height * width)
    for end in edges.unbind(-1):
        boundary.scatter_add_(1, end.long(), touching.int())
    mean = features.flatten(2).transpose(1, 2).to(dtype)
    y = torch.arange(height, dtype=torch.int32, device=features.device).repeat_interleave(width)
    x = torch.arange(width, dtype=torch.int32, device=features.device).repeat(height)
    position = torch.stack((y, x), -1).expand(batch, -1, -1)
    return merge_tree(
        inside.flatten(1).int(),
        mean,
        torch.zeros_like(mean),
        position.to(dtype),
        torch.cat((position, position), -1),
        boundary,
        edges,
        touching.int(),
        distance,
        compactness,
        depth,
        noise,
    )
