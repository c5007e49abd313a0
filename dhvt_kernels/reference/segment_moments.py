"""Statistics of every segment, by scattered sums."""

import torch
from torch import Tensor

from .._checks import accumulation_dtype
from .._layout import like_image


def _scatter(values: Tensor, index: Tensor, num_segments: int) -> Tensor:
    """Sums of values [B,P,C] by index [B,P] in 0..K, where K means no segment: [B,K,C]."""
    out = values.new_zeros(values.shape[0], num_segments + 1, values.shape[2])
    return out.scatter_add_(1, index.unsqueeze(-1).expand_as(values), values)[:, :num_segments]


def _boundary(index: Tensor, num_segments: int) -> Tensor:
    """Pairs of 4-neighbours with one pixel in the segment and the other in another one: [B,K]. index [B,H,W]."""
    count = index.new_zeros(index.shape[0], num_segments + 1)
    for a, b in ((index[:, 1:], index[:, :-1]), (index[:, :, 1:], index[:, :, :-1])):
        border = ((a != b) & (a < num_segments) & (b < num_segments)).long()
        for side in (a, b):
            count.scatter_add_(1, side.flatten(1), border.flatten(1))
    return count[:, :num_segments]


def segment_moments(
    features: Tensor, labels: Tensor, num_segments: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Count, mean, sum of squared deviations, centroid, box and boundary length of every segment."""
    batch, height, width = labels.shape
    dtype = accumulation_dtype(features.dtype)
    index = torch.where((labels >= 0) & (labels < num_segments), labels, num_segments).long()
    pixel = index.flatten(1)
    values = features.to(dtype).flatten(2).transpose(1, 2)

    count = _scatter(torch.ones_like(pixel).unsqueeze(-1), pixel, num_segments)
    size = count.clamp(min=1)
    mean = _scatter(values, pixel, num_segments) / size
    of_pixel = torch.nn.functional.pad(mean, (0, 0, 0, 1)).gather(1, pixel.unsqueeze(-1).expand_as(values))
    m2 = _scatter((values - of_pixel) ** 2, pixel, num_segments).contiguous()

    rows, columns = torch.arange(height, device=labels.device), torch.arange(width, device=labels.device)
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).reshape(1, -1, 2).expand(batch, -1, -1)
    centroid = (_scatter(grid, pixel, num_segments).double() / size).to(dtype)
    box = labels.new_tensor([0, 0, -1, -1]).long().repeat(batch, num_segments + 1, 1)
    target = pixel.unsqueeze(-1).expand_as(grid)
    box[..., :2].scatter_reduce_(1, target, grid, "amin", include_self=False)
    box[..., 2:].scatter_reduce_(1, target, grid, "amax", include_self=False)
    boundary = _boundary(index, num_segments)
    return count[..., 0].int(), mean, m2, centroid, box[:, :num_segments].int(), boundary.int()


def segment_moments_backward(
    grad_mean: Tensor, grad_m2: Tensor, features: Tensor, labels: Tensor, count: Tensor, mean: Tensor
) -> Tensor:
    """grad_mean / n + 2 grad_m2 (f - mean), each of the pixel's segment; 0 where a pixel has none."""
    num_segments = count.shape[1]
    inside = (labels >= 0) & (labels < num_segments)
    index = torch.where(inside, labels, num_segments).long().flatten(1).unsqueeze(-1)

    def of_pixel(table: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(table, (0, 0, 0, 1))
        return padded.gather(1, index.expand(-1, -1, table.shape[2])).transpose(1, 2).reshape(features.shape)

    deviation = features.to(mean.dtype) - of_pixel(mean)
    slope = of_pixel(grad_m2)
    spread = torch.where(slope != 0, 2 * slope * deviation, 0)  # no gradient gives none, even to NaN
    grad = of_pixel(grad_mean / count.clamp(min=1).unsqueeze(-1)) + spread
    return like_image(torch.where(inside.unsqueeze(1), grad, 0).to(features.dtype), features)
