"""torchvision's VisionTransformer."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .adapter import IMAGENET, Adapter, unsupported
from .patches import embed_patches, square


class TorchvisionAdapter(Adapter):
    """`torchvision.models.VisionTransformer` with plain patches."""

    mean, std = IMAGENET

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        if not isinstance(self.model.conv_proj, nn.Conv2d):
            raise unsupported(model, "VisionTransformer with a convolutional stem instead of a patch embedding")
        self.patch_size = square(model, self.model.patch_size)
        self.channels, self.width = self.model.conv_proj.in_channels, self.model.hidden_dim

    def embed(self, patches: Tensor) -> Tensor:
        return embed_patches(self.model.conv_proj, patches)

    def positions(self, height: int, width: int) -> Tensor:
        side = self.model.image_size // self.patch_size
        return self.model.encoder.pos_embedding[0, 1:].unflatten(0, (side, side))

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Any:
        (tokens,) = self._run(tokens, mask, (-1,))
        return self.model.heads(self.model.encoder.ln(tokens)[:, 0])

    def features(self, tokens: Tensor, mask: Tensor | None, layers: Sequence[int]) -> tuple[Tensor, ...]:
        return tuple(self.model.encoder.ln(found[:, 1:]) for found in self._run(tokens, mask, layers))

    def keys(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return ~mask

    def _run(self, tokens: Tensor, mask: Tensor | None, layers: Sequence[int]) -> tuple[Tensor, ...]:
        model = self.model
        front = model.class_token + model.encoder.pos_embedding[:, :1]
        tokens = torch.cat([front.expand(tokens.shape[0], -1, -1), tokens], 1)
        tokens = model.encoder.dropout(tokens)
        return self.run([partial(_block, block) for block in model.encoder.layers], tokens, mask, layers)


def _block(block: Any, tokens: Tensor, ignored: Tensor | None) -> Tensor:
    """The block, whose forward takes no mask."""
    if ignored is None:
        return block(tokens)
    normal = block.ln_1(tokens)
    attended, _ = block.self_attention(normal, normal, normal, need_weights=False, key_padding_mask=ignored)
    tokens = tokens + block.dropout(attended)
    return tokens + block.mlp(block.ln_2(tokens))
