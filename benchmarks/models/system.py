"""What every compared system can do, whatever it computes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

import dhvt_kernels as dk

#: What of the tokens of all blocks a schedule is made for.
TARGETS: dict[str, Callable[[Sequence[int]], float]] = {
    "mean": lambda tokens: sum(tokens) / len(tokens),
    "last": lambda tokens: tokens[-1],
}


class System(nn.Module, ABC):
    """A model from images `[B,3,H,W]`, normalised with `MEAN` and `STD` of `backbone`, to logits.

    `forward(images, self.tokenize(images))` is `forward(images)` in two steps that can be timed apart.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts: Sequence[int | Tensor] = ()

    def tokenize(self, images: Tensor) -> dk.Partition | None:
        """The tokens of the images, for systems whose tokenizer runs before the backbone; None for others."""
        return None

    @property
    def tokens(self) -> list[float]:
        """Tokens that each block gave out in the last forward, mean over the images, without the class token."""
        return [float(count.double().mean()) if isinstance(count, Tensor) else float(count) for count in self._counts]

    def auxiliary_loss(self) -> Tensor:
        """What the method adds to the loss of the task after a forward in training, with its weight."""
        return next(self.parameters()).new_zeros(())

    @abstractmethod
    def added(self) -> list[nn.Module | nn.Parameter]:
        """The head, and what the method adds to a pretrained backbone."""

    def freeze(self) -> None:
        """Train `added()` alone."""
        self.requires_grad_(False)
        for part in self.added():
            part.requires_grad_(True)


def attend(attention: nn.Module, tokens: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """timm's attention with `bias` `[B,N]` added to the scores of each key; also the keys `[B,heads,N,D/heads]`."""
    query, key, value = project(attention, tokens)
    if bias is not None:
        bias = bias[:, None, None].to(query.dtype)
    drop = attention.attn_drop.p if attention.training else 0.0
    mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=drop)
    return finish(attention, mixed), key


def project(attention: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values `[B,heads,N,D/heads]` of timm's attention."""
    parts = attention.qkv(tokens).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = parts.unbind(0)
    return attention.q_norm(query), attention.k_norm(key), value


def finish(attention: nn.Module, mixed: Tensor) -> Tensor:
    """`[B,heads,N,D/heads]` to what timm's attention returns, `[B,N,D]`."""
    return attention.proj_drop(attention.proj(attention.norm(mixed.transpose(1, 2).flatten(2))))


def embed(vit: nn.Module, images: Tensor) -> Tensor:
    """timm's tokens before the first block, `[B,1+N,D]`."""
    return vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))


def flat_index(index: Tensor, length: int) -> Tensor:
    """Indices `[B,n]` into rows of `[B,length,...]` as indices into its first two dimensions flattened."""
    return (index + length * torch.arange(len(index), device=index.device)[:, None]).flatten()
