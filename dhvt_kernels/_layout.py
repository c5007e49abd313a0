"""Memory formats of [B,C,H,W] tensors: channels_last where an input is, else contiguous (as csrc/common.h)."""

import torch
from torch import Tensor


def is_channels_last(t: Tensor) -> bool:
    """Dense in channels_last order, and not contiguous as well."""
    return not t.is_contiguous() and t.is_contiguous(memory_format=torch.channels_last)


def image_format(channels_last: bool) -> torch.memory_format:
    """The memory format by its name."""
    return torch.channels_last if channels_last else torch.contiguous_format


def like_image(t: Tensor, like: Tensor) -> Tensor:
    """`t` in the memory format of `like`."""
    return t.contiguous(memory_format=image_format(is_channels_last(like)))


def empty_image_like(like: Tensor, dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor of the size and memory format of `like`."""
    memory_format = image_format(is_channels_last(like))
    return torch.empty(like.shape, dtype=dtype, device=like.device, memory_format=memory_format)
