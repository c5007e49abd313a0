"""How attention sees rows with different numbers of tokens: which choice, and what stands in its way."""

from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .kernels import flash_kernel

ATTENTION = ("auto", "mask", "buckets", "nested", "varlen", "flex")


@dataclass
class Ragged:
    """What `Adapter.run` has to know of the batch that is under way."""

    attention: str
    counts: list[int]
    """Tokens of each image, without the model's own; on the host."""
    ran: bool = False
    """Whether the adapter called `run`."""


#: Set while a batch with padding goes through an adapter; None: the padding is masked.
RAGGED: ContextVar[Ragged | None] = ContextVar("RAGGED", default=None)


def auto(model: nn.Module, tokens: Tensor) -> str:
    """The choice of `attention="auto"` (docs/retrofit.md has the measurements)."""
    if any(map(_compiled, model.modules())):
        return "mask"  # one shape: the others would compile again and again
    kind = tokens.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tokens.dtype
    if needs_rows(model) or (kind != "cpu" and flash_kernel(tokens.device, dtype) is None):
        return "buckets"
    return "varlen"


def needs_rows(model: nn.Module) -> str | None:
    """Why a model's blocks need an image per row: something drawn per row, or compiled code. None: they do not."""
    for module in model.modules():
        name = type(module).__name__
        if _compiled(module):
            return f"{name} is compiled"
        drops = module.training and ("DropPath" in name or "StochasticDepth" in name)
        if drops and (getattr(module, "drop_prob", None) or getattr(module, "p", None)):
            return f"{name} drops images in training, a row each"
    return None


def _compiled(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None
