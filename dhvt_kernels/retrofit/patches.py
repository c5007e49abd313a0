"""A patch embedding's weights on patches that lie apart."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

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
