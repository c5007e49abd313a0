"""What adapters share: a patch embedding on patches that lie apart, and the mean over tokens that are real."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._checks import accumulation_dtype
from .adapter import unsupported


def embed_patches(conv: Any, patches: Tensor) -> Tensor:
    """`[B,N,C,P,P]` to `[B,N,D]`: a convolution of stride P, as the product of matrices that it is."""
    return F.linear(patches.flatten(2), conv.weight.flatten(1), conv.bias)


def square(model: nn.Module, size: Any) -> int:
    """The side of a patch, from one number or a pair."""
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    if height != width:
        raise unsupported(model, f"{type(model).__name__} with patches of {height} x {width} pixels, not square")
    return int(height)


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """`[B,D]`: over the tokens `[B,N,D]` of the mask `[B,N]`; sums in float32, as half precision overflows in them."""
    weight = mask.unsqueeze(-1)
    total = torch.where(weight, tokens, 0).sum(1, dtype=accumulation_dtype(tokens.dtype))
    return (total / weight.sum(1)).to(tokens.dtype)
