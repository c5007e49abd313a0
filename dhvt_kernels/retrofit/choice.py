"""How attention sees rows with different numbers of tokens: which choice, and what stands in its way."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

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


def attend(
    method: Callable[..., Any], chosen: str, tokens: Tensor, real: Tensor | None, counts: list[int] | None
) -> Any:
    """Call an adapter's method with tokens and mask, and a choice of attention for its `run`."""
    if real is None or chosen == "mask":
        return method(tokens, real)
    if not counts:
        if chosen != "auto" and len(tokens):
            raise ValueError(
                f'attention="{chosen}": in a compiled or captured graph the host does not know the numbers of tokens; '
                'expected "auto" or "mask"'
            )
        return method(tokens, real)
    ragged = Ragged(chosen, counts)
    before = RAGGED.set(ragged)
    try:
        out = method(tokens, real)
    finally:
        RAGGED.reset(before)
    if chosen != "auto" and not ragged.ran:
        raise ValueError(
            f'attention="{chosen}": the adapter masks the padding itself; expected "auto" or "mask", or an adapter '
            "that gives `run` the tokens and the mask that it was given (docs/retrofit.md)"
        )
    return out


def auto(model: nn.Module, tokens: Tensor, fused: bool) -> str:
    """The choice of `attention="auto"` (docs/retrofit.md has the measurements)."""
    if any(map(_compiled, model.modules())):
        return "mask"  # one shape: the others would compile again and again
    kind = tokens.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tokens.dtype
    if not fused or needs_rows(model) or (kind != "cpu" and flash_kernel(tokens.device, dtype) is None):
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
