"""Pooling over segments, and its transpose."""

from typing import Any

import torch
from torch import Tensor
from torch.library import register_fake

from .._checks import FLOATING, LABELS, check_tensors
from .._schema import ops


@register_fake("dhvt_kernels::segment_gather")
def _(values: Tensor, labels: Tensor, weights: Tensor | None, channels_last: bool) -> Tensor:
    batch, height, width = labels.shape
    out = values.new_empty(batch, values.shape[2], height, width)
    return out.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
