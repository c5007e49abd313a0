"""timm's VisionTransformer: ViT, DeiT, DINOv2, CLIP and SigLIP towers."""

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .adapter import HALF, Adapter, unsupported
from .patches import embed_patches, masked_mean, square


class TimmAdapter(Adapter):
    """Any `timm.models.vision_transformer.VisionTransformer` with plain patches, and the distilled DeiT."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        embed = self.model.patch_embed
        if type(embed).__name__ != "PatchEmbed":
            raise unsupported(model, f"{type(model).__name__} with {type(embed).__name__} instead of PatchEmbed")
        for block in self.model.blocks:
            if "attn_mask" not in signature(block.forward).parameters:
                raise unsupported(
                    model, f"{type(model).__name__} with {type(block).__name__}, which takes no attn_mask"
                )
        self.patch_size = square(model, embed.patch_size)
        self.channels, self.width = embed.proj.in_channels, embed.proj.out_channels
        normalisation = getattr(model, "pretrained_cfg", None) or {}
        self.mean, self.std = normalisation.get("mean", HALF[0]), normalisation.get("std", HALF[1])

    @property
    def _prefix_positions(self) -> int:
        return 0 if self.model.no_embed_class else self.model.num_prefix_tokens

    def embed(self, patches: Tensor) -> Tensor:
        embed = self.model.patch_embed
        return embed.norm(embed_patches(embed.proj, patches))

    def positions(self, height: int, width: int) -> Tensor | None:
        model = self.model
        if model.pos_embed is None:
            return None
        table, grid = model.pos_embed, model.patch_embed.grid_size
        if model.dynamic_img_size:
            from timm.layers import resample_abs_pos_embed

            new = model.patch_embed.dynamic_feat_size((height, width))
            table = resample_abs_pos_embed(table, new, grid, num_prefix_tokens=self._prefix_positions)
            grid = new
        return table[0, self._prefix_positions :].unflatten(0, tuple(grid))

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Any:
        model = self.model
        (tokens,) = self.run(model.blocks, self._start(tokens, mask), mask)
        tokens = model.norm(tokens)
        if mask is None:
            return model.forward_head(tokens)
        return self._masked_head(tokens, F.pad(mask, (model.num_prefix_tokens, 0), value=True))

    def features(self, tokens: Tensor, mask: Tensor | None, layers: Sequence[int]) -> tuple[Tensor, ...]:
        model = self.model
        if self._drops_tokens:
            raise ValueError(
                "patch_drop_rate: expected 0, or evaluation mode: in training it drops tokens, and those that are left "
                "are no longer those of the partition"
            )
        # Models that pool the tokens before their norm have it as fc_norm.
        norm = model.fc_norm if isinstance(model.norm, nn.Identity) else model.norm
        found = self.run(model.blocks, self._start(tokens, mask), mask, layers)
        return tuple(norm(tokens[:, model.num_prefix_tokens :]) for tokens in found)

    def keys(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return mask[:, None, None]

    def fused(self) -> bool:
        return all(getattr(block.attn, "fused_attn", True) for block in self.model.blocks)

    def block(self, block: Any, tokens: Tensor, keys: Any, inside: Callable[..., Any] | None) -> Tensor:
        call = block if inside is None else inside(block)
        if self.model.grad_checkpointing:
            return checkpoint(call, tokens, keys, use_reentrant=False)
        return call(tokens, keys)

    def _start(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens with the model's own before them, as the first block takes them."""
        model = self.model
        learned = [getattr(model, name, None) for name in ("cls_token", "dist_token", "reg_token")]
        prefix = [token.expand(tokens.shape[0], -1, -1) for token in learned if token is not None]
        number = self._prefix_positions
        if prefix:
            front = torch.cat(prefix, 1)
            if model.pos_embed is not None and number:
                front = front + model.pos_embed[:, :number]
            tokens = torch.cat([front, tokens], 1)
        if model.pos_embed is not None:
            tokens = model.pos_drop(tokens)
        tokens = self._drop(tokens, mask)
        return model.norm_pre(tokens)

    def _drop(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None and self._drops_tokens:
            raise ValueError("patch_drop_rate: expected 0 for rows with different numbers of tokens")
        return self.model.patch_drop(tokens)

    @property
    def _drops_tokens(self) -> bool:
        drop = self.model.patch_drop
        return drop.training and getattr(drop, "prob", 0) > 0

    def _masked_head(self, tokens: Tensor, mask: Tensor) -> Any:
        """`forward_head`, where the pooling leaves out the padding."""
        model = self.model
        if hasattr(model, "dist_token") or (model.attn_pool is None and model.global_pool in ("token", "")):
            return model.forward_head(tokens)  # pools no patch
        if not model.pool_include_prefix:
            tokens, mask = tokens[:, model.num_prefix_tokens :], mask[:, model.num_prefix_tokens :]
        if model.global_pool == "map":
            keys = mask[:, None, None]
            if not model.attn_pool.fused_attn:  # which adds the mask
                keys = tokens.new_zeros(()).masked_fill(~keys, -torch.inf)
            pooled = model.attn_pool(tokens, attn_mask=keys)
        elif model.attn_pool is None:
            pooled = _pool(tokens, mask, model.global_pool)
        else:
            raise ValueError(f"global_pool: {model.global_pool!r} takes no rows with different numbers of tokens")
        pooled = model.head_drop(model.fc_norm(pooled))
        return model.head(pooled)


def _pool(tokens: Tensor, mask: Tensor, kind: str) -> Tensor:
    """Mean, maximum, or their mean (`avgmax`), over the tokens of the mask."""
    if kind == "avg":
        return masked_mean(tokens, mask)
    maximum = tokens.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1)
    return maximum if kind == "max" else 0.5 * (maximum + masked_mean(tokens, mask))
