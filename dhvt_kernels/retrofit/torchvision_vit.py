"""torchvision's VisionTransformer."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        model = self.model
        front = model.class_token + model.encoder.pos_embedding[:, :1]
        tokens = torch.cat([front.expand(tokens.shape[0], -1, -1), tokens], 1)
        tokens = model.encoder.dropout(tokens)
        if mask is None:
            tokens = model.encoder.layers(tokens)
        else:
            ignored = ~F.pad(mask, (1, 0), value=True)
            for block in model.encoder.layers:
                tokens = _block(block, tokens, ignored)
        return model.heads(model.encoder.ln(tokens)[:, 0])


def _block(block: Any, tokens: Tensor, ignored: Tensor) -> Tensor:
    """The block's forward, which takes no mask."""
    normal = block.ln_1(tokens)
    attended, _ = block.self_attention(normal, normal, normal, need_weights=False, key_padding_mask=ignored)
    tokens = tokens + block.dropout(attended)
    return tokens + block.mlp(block.ln_2(tokens))
