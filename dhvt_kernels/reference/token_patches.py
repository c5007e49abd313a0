"""Boxes of the image resampled to P x P, with the share of the samples that belong to the segment."""

import torch
from torch import Tensor

from .._checks import accumulation_dtype


def _axis(first: Tensor, last: Tensor, size: int, limit: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The P samples of [first, last] ([B,K] each): their two pixels, inside the image, and the share of the second."""
    extent = (last - first).unsqueeze(-1)
    if size == 1:
        numerator, denominator = extent, 2
    else:
        numerator, denominator = torch.arange(size, device=first.device) * extent, size - 1
    position = first.unsqueeze(-1) + numerator // denominator
    remainder = numerator % denominator
    low, high = position.clamp(0, limit - 1), (position + (remainder > 0)).clamp(0, limit - 1)
    return low, high, remainder.to(dtype) / denominator


def _mix(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    return torch.where(share > 0, (1 - share) * a + share * b, a)


def token_patches(image: Tensor, labels: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """patches[b,k,c] = the box (ymin, xmin, ymax, xmax) resampled; masks[b,k,0] = the same of labels == k."""
    batch, channels, height, width = image.shape
    num_segments = boxes.shape[1]
    if height == 0 or width == 0:
        patches = image.new_zeros(batch, num_segments, channels, size, size)
        return patches, image.new_zeros(batch, num_segments, 1, size, size)
    dtype = accumulation_dtype(image.dtype)
    ymin, xmin, ymax, xmax = boxes.long().unbind(-1)
    y = [t.unsqueeze(-1) for t in _axis(ymin, ymax, size, height, dtype)]  # [B,K,P,1]
    x = [t.unsqueeze(-2) for t in _axis(xmin, xmax, size, width, dtype)]  # [B,K,1,P]
    b = torch.arange(batch, device=image.device)[:, None, None, None]
    k = torch.arange(num_segments, device=image.device)[None, :, None, None]

    def resample(sample):  # type: ignore[no-untyped-def]
        rows = [_mix(sample(row, x[0]), sample(row, x[1]), x[2].unsqueeze(-1)) for row in y[:2]]
        out = _mix(rows[0], rows[1], y[2].unsqueeze(-1)).permute(0, 1, 4, 2, 3)
        empty = ((ymax < ymin) | (xmax < xmin))[:, :, None, None, None]
        return out.masked_fill(empty, 0).to(image.dtype).contiguous()

    patches = resample(lambda row, column: image[b, :, row, column].to(dtype))
    masks = resample(lambda row, column: (labels[b, row, column] == k).to(dtype).unsqueeze(-1))
    return patches, masks


def token_patches_backward(grad_patches: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """The transpose of token_patches in the image: every sample's gradient goes to its four pixels."""
    batch, _, channels, size, _ = grad_patches.shape
    dtype = accumulation_dtype(grad_patches.dtype)
    out = grad_patches.new_zeros(batch, channels, height * width, dtype=dtype)
    if out.numel() == 0:
        return out.reshape(batch, channels, height, width).to(grad_patches.dtype)
    ymin, xmin, ymax, xmax = boxes.long().unbind(-1)
    y = _axis(ymin, ymax, size, height, dtype)
    x = _axis(xmin, xmax, size, width, dtype)
    empty = ((ymax < ymin) | (xmax < xmin))[:, :, None, None, None]
    grad = grad_patches.to(dtype).masked_fill(empty, 0)
    for row, row_share in ((y[0], 1 - y[2]), (y[1], y[2])):
        for column, column_share in ((x[0], 1 - x[2]), (x[1], x[2])):
            index = row.unsqueeze(-1) * width + column.unsqueeze(-2)  # [B,K,P,P]
            share = row_share.unsqueeze(-1) * column_share.unsqueeze(-2)
            source = (grad * share.unsqueeze(2)).transpose(1, 2).reshape(batch, channels, -1)
            out.scatter_add_(2, index.reshape(batch, 1, -1).expand(-1, channels, -1), source)
    return out.reshape(batch, channels, height, width).to(grad_patches.dtype)
