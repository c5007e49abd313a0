"""A stack of blocks on rows with different numbers of tokens."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from .adapter import Adapter


def run_blocks(
    adapter: "Adapter", blocks: Sequence[Any], tokens: Tensor, mask: Tensor | None, layers: Sequence[int]
) -> tuple[Tensor, ...]:
    """`Adapter.run`."""
    wanted = _indices(layers, len(blocks))
    if mask is not None:
        mask = F.pad(mask, (tokens.shape[1] - mask.shape[1], 0), value=True)
    found = dict(_padded(adapter, blocks, tokens, mask, wanted))
    return tuple(found[index] for index in wanted)


def _indices(layers: Sequence[int], depth: int) -> list[int]:
    """Each as an index from the first block."""
    for index in layers:
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"layers: expected integers; found {type(index).__name__}")
        if not -depth <= index < depth:
            raise ValueError(f"layers: expected indices of {depth} blocks, {-depth} to {depth - 1}; found {index}")
    return [index % depth for index in layers]


def _padded(
    adapter: "Adapter", blocks: Sequence[Any], tokens: Tensor, mask: Tensor | None, wanted: Sequence[int]
) -> Iterator[tuple[int, Tensor]]:
    """The wanted blocks and their outputs, with the padding masked."""
    keys = None if mask is None else adapter.keys(tokens, mask)
    for index, block in enumerate(blocks[: max(wanted, default=-1) + 1]):
        tokens = adapter.block(block, tokens, keys, _as_it_is)
        if index in wanted:
            yield index, tokens


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function
