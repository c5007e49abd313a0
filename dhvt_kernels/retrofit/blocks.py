"""A stack of blocks on rows with different numbers of tokens: padded, in buckets, or packed."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops import pack, pad, unpack
from .choice import RAGGED, Ragged, auto, needs_rows
from .interception import on_row
from .kernels import KERNELS, NotPacked, Row

#: A bucket's shortest row has at least this share of its longest one's tokens.
SIMILAR = 0.8

Blocks = Sequence[Any]


class Family(Protocol):
    """What is asked of an `Adapter` here; it says what each means."""

    model: Any

    def keys(self, tokens: Tensor, mask: Tensor) -> Any: ...

    def fused(self) -> bool: ...

    def block(
        self, block: Any, tokens: Tensor, keys: Any, inside: Callable[[Callable[..., Any]], Callable[..., Any]] | None
    ) -> Tensor: ...


def run_blocks(
    adapter: Family, blocks: Blocks, tokens: Tensor, mask: Tensor | None, layers: Sequence[int]
) -> tuple[Tensor, ...]:
    """`Adapter.run`."""
    wanted = _indices(layers, len(blocks))
    blocks = blocks[: max(wanted, default=-1) + 1]
    # A compiled graph has no numbers of tokens to choose by, and cannot read the variable.
    ragged = None if mask is None or torch.compiler.is_compiling() else RAGGED.get()
    if ragged is None or mask is None or mask.shape != (len(ragged.counts), max(ragged.counts)):
        found = dict(_padded(adapter, blocks, tokens, _with_own(tokens, mask), wanted))
    else:
        found = _run_ragged(adapter, blocks, tokens, _with_own(tokens, mask), wanted, ragged)
    return tuple(found[index] for index in wanted)


def _indices(layers: Sequence[int], depth: int) -> list[int]:
    """Each as an index from the first block."""
    for index in layers:
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"layers: expected integers; found {type(index).__name__}")
        if not -depth <= index < depth:
            raise ValueError(f"layers: expected indices of {depth} blocks, {-depth} to {depth - 1}; found {index}")
    return [index % depth for index in layers]


def _with_own(tokens: Tensor, mask: Tensor | None) -> Tensor | None:
    """The mask with the model's own tokens, which come first and are real."""
    return None if mask is None else F.pad(mask, (tokens.shape[1] - mask.shape[1], 0), value=True)


def _run_ragged(
    adapter: Family, blocks: Blocks, tokens: Tensor, mask: Tensor | None, wanted: Sequence[int], ragged: Ragged
) -> dict[int, Tensor]:
    ragged.ran = True
    own = tokens.shape[1] - max(ragged.counts)
    counts = [own + count for count in ragged.counts]
    chosen = auto(adapter.model, tokens, adapter.fused()) if ragged.attention == "auto" else ragged.attention
    if chosen == "mask":
        return dict(_padded(adapter, blocks, tokens, mask, wanted))
    if chosen == "buckets":
        return _buckets(adapter, blocks, tokens, counts, wanted)
    try:
        if obstacle := needs_rows(adapter.model):
            raise NotPacked(obstacle)
        return _packed(adapter, blocks, tokens, counts, wanted, ragged.attention)
    except NotPacked as error:
        if ragged.attention != "auto":
            raise ValueError(f'attention="{chosen}": {error}; expected attention="mask" or "buckets"') from error
    return _buckets(adapter, blocks, tokens, counts, wanted)


def _padded(
    adapter: Family, blocks: Blocks, tokens: Tensor, mask: Tensor | None, wanted: Sequence[int]
) -> Iterator[tuple[int, Tensor]]:
    """The wanted blocks and their outputs `[B,n,D]`, with the padding masked."""
    keys = None if mask is None else adapter.keys(tokens, mask)
    for index, block in enumerate(blocks):
        tokens = adapter.block(block, tokens, keys, None)
        if index in wanted:
            yield index, tokens


def _packed(
    adapter: Family, blocks: Blocks, tokens: Tensor, counts: list[int], wanted: Sequence[int], chosen: str
) -> dict[int, Tensor]:
    """All real tokens in one row `[1,T,D]`."""
    length, found = tokens.shape[1], {}
    number = torch.tensor(counts, dtype=torch.int32).to(tokens.device, non_blocking=True)
    flat, cu_seqlens = pack(tokens, number, total=sum(counts))
    row = Row(tuple(counts), cu_seqlens)

    def inside(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return on_row(function, KERNELS[chosen], row)

    tokens = flat.unsqueeze(0)
    for index, block in enumerate(blocks):
        tokens = adapter.block(block, tokens, None, inside)
        if index in wanted:
            found[index] = unpack(tokens[0], cu_seqlens, length=length)
    return found


def _buckets(
    adapter: Family, blocks: Blocks, tokens: Tensor, counts: list[int], wanted: Sequence[int]
) -> dict[int, Tensor]:
    """Rows of similar length together, each group padded to its own longest."""
    order = sorted(range(len(counts)), key=lambda b: -counts[b])
    groups: list[list[int]] = []
    for b in order:
        if groups and counts[b] >= SIMILAR * counts[groups[-1][0]]:
            groups[-1].append(b)
        else:
            groups.append([b])
    device, length = tokens.device, tokens.shape[1]
    number = torch.tensor(counts, dtype=torch.int32).to(device, non_blocking=True)
    found: dict[int, list[Tensor]] = {index: [] for index in wanted}
    for group in groups:
        rows = torch.tensor(group).to(device, non_blocking=True)
        longest = counts[group[0]]
        part, mask = pad(tokens[rows], number[rows], length=longest)
        full = counts[group[-1]] == longest
        for index, out in _padded(adapter, blocks, part, None if full else mask, wanted):
            found[index].append(pad(out, number[rows], length=length)[0])
    back = torch.tensor(order).argsort().to(device, non_blocking=True)
    return {index: torch.cat(parts)[back] for index, parts in found.items()}
