"""Systems whose tokens are made before the backbone: superpixels of SLIC, and the hierarchy of this package."""

from typing import Any

from torch import Tensor, nn

import dhvt_kernels as dk

from .backbone import MEAN, STD
from .slic import SlicTokenizer
from .system import System


def slic(backbone: nn.Module, tokens: int, **options: Any) -> dk.Retrofit:
    """The backbone on about `tokens` superpixels of SLIC."""
    return dk.retrofit(backbone, SlicTokenizer(tokens, **options), align="pad", mean=MEAN, std=STD)


def dhvt(backbone: nn.Module, tokens: int | None, *, depth: int | None = None, **options: Any) -> dk.Retrofit:
    """The backbone on the tokens of `dk.Tokenizer`.

    Args:
        backbone: timm's ViT.
        tokens: budget, the most tokens of an image; None: the criterion alone decides.
        depth: levels of the hierarchy: 1 has the leaves alone, each further one a round of merging; None: all. With few
            levels a budget may lie below what the last of them has; then there are more tokens.
        **options: of `dk.Tokenizer`, such as `leaves`, `cell`, `criterion`; `criterion="fixed"` uses the whole budget.
    """
    tokenizer = dk.Tokenizer(depth=depth, max_tokens=tokens, **options)
    return dk.retrofit(backbone, tokenizer, align="pad", mean=MEAN, std=STD)


class Adaptive(System):
    """A retrofitted backbone, which has the same tokens in all blocks."""

    def __init__(self, vit: dk.Retrofit) -> None:
        super().__init__()
        self.vit = vit

    def added(self) -> list[nn.Module | nn.Parameter]:
        return [self.vit.model.head, *added_by_retrofit(self.vit)]

    def tokenize(self, images: Tensor) -> dk.Partition:
        return self.vit.tokenize(images)

    def forward(self, images: Tensor, partition: dk.Partition | None = None) -> Tensor:
        partition = self.tokenize(images) if partition is None else partition
        self._counts = [partition.counts] * len(self.vit.model.blocks)
        return self.vit(images, partition)


def added_by_retrofit(vit: dk.Retrofit) -> list[nn.Module | nn.Parameter]:
    """All that is not the model's."""
    return [vit.injection, vit.filler, vit.mix, vit.tokenizer]
