"""transformers: ViT, DINOv2, and the vision towers of CLIP and SigLIP."""

import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .adapter import CLIP, HALF, IMAGENET, Adapter, unsupported
from .patches import embed_patches, masked_mean, square


class _Adapter(Adapter):
    """What the four share: embeddings with a class token or none, interpolated positions, layers that take a mask.

    The outputs are those of the model, without hidden states and attentions.
    """

    prefix = 1

    def __init__(self, model: nn.Module, tower: str) -> None:
        super().__init__(model)
        version = sys.modules[type(model).__module__.split(".")[0]].__version__
        if int(version.split(".")[0]) < 5:
            raise unsupported(model, f"{type(model).__name__} of transformers {version}, older than 5")
        self._tower = tower if hasattr(model, tower) else None
        self.patch_size = square(model, self._convolution.kernel_size)
        self.channels, self.width = self._convolution.in_channels, self._convolution.out_channels

    @property
    def tower(self) -> Any:
        """The model without its head for a task."""
        return self.model if self._tower is None else getattr(self.model, self._tower)

    @property
    def _convolution(self) -> Any:
        return self.tower.embeddings.patch_embeddings.projection

    @property
    def _table(self) -> Tensor:
        """`[1,prefix+gh*gw,D]`"""
        return self.tower.embeddings.position_embeddings

    @property
    def _image_size(self) -> tuple[int, int]:
        size = self.tower.config.image_size
        return tuple(size) if isinstance(size, (tuple, list)) else (size, size)

    @property
    def _class_token(self) -> Tensor | None:
        """`[1,1,D]`"""
        return self.tower.embeddings.cls_token

    def embed(self, patches: Tensor) -> Tensor:
        return embed_patches(self._convolution, patches)

    def positions(self, height: int, width: int) -> Tensor:
        table, grid = self._table, (height // self.patch_size, width // self.patch_size)
        if (height, width) != self._image_size:
            # Only the shape of the embeddings is read.
            like = table.new_zeros(1).expand(1, self.prefix + grid[0] * grid[1], self.width)
            table = self.tower.embeddings.interpolate_pos_encoding(like, height, width)
        return table[0, self.prefix :].unflatten(0, grid)

    def _start(self, tokens: Tensor) -> Tensor:
        """Tokens with the class token before them, as the first block takes them."""
        if self._class_token is None:
            return tokens
        front = (self._class_token + self._table[:, :1]).expand(tokens.shape[0], -1, -1)
        return torch.cat([front, tokens], 1)

    def keys(self, tokens: Tensor, mask: Tensor) -> Any:
        from transformers.masking_utils import create_bidirectional_mask

        return create_bidirectional_mask(config=self.tower.config, inputs_embeds=tokens, attention_mask=mask)

    def fused(self) -> bool:
        return self.tower.config._attn_implementation == "sdpa"

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Any:
        (hidden,) = self.run(self._layers, self._start(tokens), mask)
        if mask is not None:
            mask = F.pad(mask, (self.prefix, 0), value=True)
        return self._finish(*self._encode(hidden, mask), mask)

    def features(self, tokens: Tensor, mask: Tensor | None, layers: Sequence[int]) -> tuple[Tensor, ...]:
        found = self.run(self._layers, self._start(tokens), mask, layers)
        return tuple(self._norm(hidden[:, self.prefix :]) for hidden in found)

    def block(self, block: Any, tokens: Tensor, keys: Any, inside: Callable[..., Any] | None) -> Tensor:
        if inside is None or not (block.gradient_checkpointing and block.training):
            return super().block(block, tokens, keys, inside)
        # The layer itself decides what is computed again.
        recomputed = block._gradient_checkpointing_func
        block._gradient_checkpointing_func = lambda function, *args: recomputed(inside(function), *args)
        try:
            return block(tokens, keys)
        finally:
            block._gradient_checkpointing_func = recomputed

    @property
    @abstractmethod
    def _layers(self) -> Any:
        """The tower's blocks."""

    @property
    @abstractmethod
    def _norm(self) -> Any:
        """The tower's final norm."""

    @abstractmethod
    def _encode(self, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The tower's last hidden state and pooled output, from that of the last block."""

    def _finish(self, hidden: Tensor, pooled: Tensor | None, mask: Tensor | None) -> Any:
        """What the tower returns; models with a head return more."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)

    def _classify(self, features: Tensor) -> Any:
        from transformers.modeling_outputs import ImageClassifierOutput

        return ImageClassifierOutput(logits=self.model.classifier(features))

    def _mean(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """`[B,D]`: over the tokens that are patches."""
        hidden = hidden[:, self.prefix :]
        return hidden.mean(1) if mask is None else masked_mean(hidden, mask[:, self.prefix :])


class ViTAdapter(_Adapter):
    """`ViTModel` and `ViTForImageClassification`."""

    mean, std = HALF

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, "vit")

    def _start(self, tokens: Tensor) -> Tensor:
        return self.tower.embeddings.dropout(super()._start(tokens))

    @property
    def _layers(self) -> Any:
        return self.tower.layers

    @property
    def _norm(self) -> Any:
        return self.tower.layernorm

    def _encode(self, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        hidden = self._norm(hidden)
        return hidden, None if self.tower.pooler is None else self.tower.pooler(hidden)

    def _finish(self, hidden: Tensor, pooled: Tensor | None, mask: Tensor | None) -> Any:
        return super()._finish(hidden, pooled, mask) if self._tower is None else self._classify(hidden[:, 0])


class Dinov2Adapter(_Adapter):
    """`Dinov2Model` and `Dinov2ForImageClassification`."""

    mean, std = IMAGENET

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, "dinov2")

    def _start(self, tokens: Tensor) -> Tensor:
        return self.tower.embeddings.dropout(super()._start(tokens))

    @property
    def _layers(self) -> Any:
        return self.tower.encoder.layer

    @property
    def _norm(self) -> Any:
        return self.tower.layernorm

    def _encode(self, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        hidden = self._norm(hidden)
        return hidden, hidden[:, 0]

    def _finish(self, hidden: Tensor, pooled: Tensor | None, mask: Tensor | None) -> Any:
        if self._tower is None:
            return super()._finish(hidden, pooled, mask)
        return self._classify(torch.cat([hidden[:, 0], self._mean(hidden, mask)], 1))


class _TowerAdapter(_Adapter):
    """CLIP and SigLIP: one convolution, and positions in an `nn.Embedding`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, "vision_model")

    @property
    def _convolution(self) -> Any:
        return self.tower.embeddings.patch_embedding

    @property
    def _table(self) -> Tensor:
        return self.tower.embeddings.position_embedding.weight.unsqueeze(0)

    @property
    def _layers(self) -> Any:
        return self.tower.encoder.layers

    @property
    def _norm(self) -> Any:
        return self.tower.post_layernorm


class CLIPAdapter(_TowerAdapter):
    """`CLIPVisionModel`, `CLIPVisionModelWithProjection` and `CLIPForImageClassification`."""

    mean, std = CLIP

    @property
    def _class_token(self) -> Tensor:
        return self.tower.embeddings.class_embedding[None, None]

    def _start(self, tokens: Tensor) -> Tensor:
        return self.tower.pre_layrnorm(super()._start(tokens))

    def _encode(self, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return hidden, self._norm(hidden[:, 0])  # the tower norms its pooled output only

    def _finish(self, hidden: Tensor, pooled: Tensor | None, mask: Tensor | None) -> Any:
        if hasattr(self.model, "visual_projection"):
            from transformers.models.clip.modeling_clip import CLIPVisionModelOutput

            return CLIPVisionModelOutput(image_embeds=self.model.visual_projection(pooled), last_hidden_state=hidden)
        if hasattr(self.model, "classifier"):
            return self._classify(self._mean(hidden, mask))
        return super()._finish(hidden, pooled, mask)


class SiglipAdapter(_TowerAdapter):
    """`SiglipVisionModel`, with or without its pooling head, and `SiglipForImageClassification`."""

    mean, std = HALF
    prefix = 0

    @property
    def _class_token(self) -> None:
        return None

    def _encode(self, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        hidden = self._norm(hidden)
        return hidden, self._attend(self.tower.head, hidden, mask) if self.tower.use_head else None

    def _attend(self, head: Any, hidden: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return head(hidden)
        probe = head.probe.expand(hidden.shape[0], -1, -1)
        pooled, _ = head.attention(probe, hidden, hidden, key_padding_mask=~mask)
        return (pooled + head.mlp(head.layernorm(pooled)))[:, 0]

    def _finish(self, hidden: Tensor, pooled: Tensor | None, mask: Tensor | None) -> Any:
        if hasattr(self.model, "classifier"):
            return self._classify(self._mean(hidden, mask))
        return super()._finish(hidden, pooled, mask)
