"""Sums and maxima over segments, and the gather and dot that are the derivatives of the sum."""

import torch
from torch import Tensor

from .._checks import accumulation_dtype
from .._layout import image_format


def _pixels(features: Tensor) -> Tensor:
    """[B,C,H,W] -> [B,H*W,C] in the accumulation dtype."""
    batch, channels, height, width = features.shape
    pixels = features.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    return pixels.to(accumulation_dtype(features.dtype))


def _slots(labels: Tensor, num_segments: int) -> Tensor:
    """[B,H,W] -> int64 [B,H*W]; pixels without a segment go to slot K, which is dropped afterwards."""
    inside = (labels >= 0) & (labels < num_segments)
    return torch.where(inside, labels, num_segments).long().flatten(1)


def segment_sum(features: Tensor, labels: Tensor, weights: Tensor | None, num_segments: int) -> tuple[Tensor, Tensor]:
    """sums[b,k,c] = sum of weights * features over the pixels of k; mass[b,k] = sum of weights (1 each where None)."""
    pixels, slots = _pixels(features), _slots(labels, num_segments)
    batch, _, channels = pixels.shape
    weight = torch.ones_like(slots, dtype=pixels.dtype) if weights is None else weights.flatten(1).to(pixels.dtype)
    sums = pixels.new_zeros(batch, num_segments + 1, channels)
    sums.scatter_add_(1, slots.unsqueeze(-1).expand_as(pixels), pixels * weight.unsqueeze(-1))
    mass = pixels.new_zeros(batch, num_segments + 1).scatter_add_(1, slots, weight)
    return sums[:, :num_segments].contiguous(), mass[:, :num_segments].contiguous()


def segment_gather(values: Tensor, labels: Tensor, weights: Tensor | None, channels_last: bool) -> Tensor:
    """out[b,c,y,x] = weights[b,y,x] * values[b, labels[b,y,x], c]; 0 where a pixel has no segment."""
    batch, num_segments, channels = values.shape
    slots = _slots(labels, num_segments).unsqueeze(-1)
    padded = torch.cat([values, values.new_zeros(batch, 1, channels)], dim=1)
    out = padded.gather(1, slots.expand(-1, -1, channels))
    if weights is not None:
        dtype = accumulation_dtype(values.dtype)
        weighted = out.to(dtype) * weights.flatten(1).unsqueeze(-1).to(dtype)
        out = torch.where(slots < num_segments, weighted, 0).to(values.dtype)
    out = out.reshape(*labels.shape, channels).permute(0, 3, 1, 2)
    return out.contiguous(memory_format=image_format(channels_last))


def segment_dot(values: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """out[b,y,x] = sum_c values[b, labels[b,y,x], c] * features[b,c,y,x]; 0 where a pixel has no segment."""
    pixels = _pixels(features)
    own = _pixels(segment_gather(values.to(pixels.dtype), labels, None, False))
    inside = (labels >= 0) & (labels < values.shape[1])
    return torch.where(inside, (own * pixels).sum(-1).reshape(labels.shape), 0)


def segment_max(features: Tensor, labels: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    """The maximum of every segment and channel, and the first pixel (y * W + x) that has it; 0 and -1 where empty."""
    pixels, slots = _pixels(features), _slots(labels, num_segments)
    batch, number, channels = pixels.shape
    slots = slots.unsqueeze(-1).expand_as(pixels)

    def over_segments(source: Tensor, start: float, reduce: str) -> Tensor:
        out = source.new_full((batch, num_segments + 1, channels), start)
        return out.scatter_reduce_(1, slots, source, reduce)

    is_nan = pixels.isnan()
    has_nan = over_segments(is_nan.int(), 0, "amax").bool().gather(1, slots)
    top = over_segments(pixels.masked_fill(is_nan, -torch.inf), -torch.inf, "amax").gather(1, slots)
    is_top = torch.where(has_nan, is_nan, pixels == top)
    position = torch.arange(number, device=pixels.device)[None, :, None].expand_as(pixels)
    index = over_segments(position.masked_fill(~is_top, number), number, "amin")[:, :num_segments]
    empty = index == number
    padded = torch.cat([pixels, pixels.new_zeros(batch, 1, channels)], dim=1)
    return padded.gather(1, index).to(features.dtype), index.masked_fill(empty, -1).int()
