"""ToMe: in every block the most similar tokens merge (docs/comparison.md)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .system import TARGETS, System, attend, embed, flat_index


class Matching(NamedTuple):
    """Which tokens of the set A (those at even places) merge into which of the set B (at odd ones)."""

    source: Tensor
    """`[B,r]`: places in A."""
    target: Tensor
    """`[B,r]`: places in B; several sources may have one."""
    kept: Tensor
    """`[B,|A|-r]`: the other places in A, in order."""


@torch.no_grad()
def match(keys: Tensor, number: int) -> Matching:
    """Bipartite soft matching of tokens `[B,N,D]` by cosine; the first token, the class token, stays as it is.

    Every token of A has an edge to the most similar one of B; the `number` edges of greatest similarity remain.
    """
    with torch.autocast(keys.device.type, enabled=False):  # ties are common in 16 bit
        keys = F.normalize(keys.float(), dim=-1)
        similarity = keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)
    similarity[:, 0] = -torch.inf
    best, target = similarity.max(2)
    order = best.argsort(dim=1, descending=True, stable=True)
    source = order[:, :number]
    return Matching(source, target.gather(1, source), order[:, number:].sort(1).values)


def merge(tokens: Tensor, size: Tensor, matching: Matching) -> tuple[Tensor, Tensor]:
    """Means over merged tokens `[B,N,D]`, weighted by their sizes `[B,N]`, and the sums of these.

    Returns:
        `[B,N-r,D]` and `[B,N-r]`: what is left of A, then B.
    """
    exact = torch.promote_types(tokens.dtype, torch.float32)
    sums = torch.cat([tokens.to(exact) * size.unsqueeze(-1), size.unsqueeze(-1).to(exact)], -1)
    first, second = sums[:, ::2], sums[:, 1::2]
    rows, length = torch.arange(len(tokens), device=tokens.device)[:, None], second.shape[1]
    moved = first[rows, matching.source].flatten(0, 1)
    second = second.flatten(0, 1).index_add(0, flat_index(matching.target, length), moved).unflatten(0, (-1, length))
    sums = torch.cat([first[rows, matching.kept], second], 1)
    size = sums[..., -1].detach()
    return (sums[..., :-1] / size.unsqueeze(-1)).to(tokens.dtype), size


def schedule(patches: int, depth: int, tokens: float, target: str = "mean") -> list[int]:
    """How many tokens each block merges, evenly, so that the blocks give out at most `tokens`.

    A block merges at most half of its tokens. Of such schedules it is the one that merges least.

    Args:
        patches: tokens at first.
        depth: number of blocks.
        tokens: bound.
        target: of what: `"mean"` over the blocks, or the `"last"` block.
    """
    of = TARGETS[target]

    def reductions(rate: float) -> list[int]:
        left, out = patches, []
        for block in range(depth):
            number = min(max(left - (patches - int(rate * (block + 1))), 0), left // 2)
            left -= number
            out.append(number)
        return out

    def reached(rate: float) -> float:
        out = reductions(rate)
        return of([patches - sum(out[: block + 1]) for block in range(depth)])

    low, high = 0.0, float(patches)
    if reached(low) <= tokens:
        return reductions(low)
    if reached(high) > tokens:
        raise ValueError(
            f"tokens: expected at least {reached(high):.1f} ({target}), as a block merges at most half of its tokens; "
            f"found {tokens}"
        )
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) <= tokens else (middle, high)
    return reductions(high)


class ToMe(System):
    """A plain ViT whose blocks merge tokens between attention and MLP; it has no parameters of its own.

    Args:
        backbone: timm's ViT with a class token.
        reduction: r, tokens that merge in each block: one number, or one for each block (`schedule`).
    """

    def __init__(self, backbone: nn.Module, reduction: int | Sequence[int]) -> None:
        super().__init__()
        depth, left = len(backbone.blocks), backbone.patch_embed.num_patches
        self.backbone = backbone
        self.reduction = [reduction] * depth if isinstance(reduction, int) else list(reduction)
        if len(self.reduction) != depth or min(self.reduction) < 0:
            raise ValueError(f"reduction: expected {depth} numbers >= 0, one for each block; found {self.reduction}")
        for number in self.reduction:
            if number > left // 2:
                raise ValueError(f"reduction: expected at most half of {left} tokens in a block; found {number}")
            left -= number
        #: `[B,1+N]`: how many patches each token of the last forward stands for, the class token first.
        self.sizes: Tensor | None = None

    def added(self) -> list[nn.Module | nn.Parameter]:
        return [self.backbone.head]

    def forward(self, images: Tensor, partition: None = None) -> Tensor:
        vit, counts = self.backbone, []
        tokens = embed(vit, images)
        size = tokens.new_ones(tokens.shape[:2], dtype=torch.float32)
        for block, number in zip(vit.blocks, self.reduction, strict=True):
            # While nothing has merged the bias is 0: then attention runs without.
            bias = size.log() if any(self.reduction[: len(counts)]) else None
            attended, keys = attend(block.attn, block.norm1(tokens), bias)
            tokens = tokens + block.drop_path1(block.ls1(attended))
            if number:
                tokens, size = merge(tokens, size, match(keys.mean(1), number))
            tokens = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
            counts.append(tokens.shape[1] - 1)
        self._counts, self.sizes = counts, size
        return vit.forward_head(vit.norm(tokens))
