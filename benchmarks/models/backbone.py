"""The backbone that all systems but SegFormer share: timm's plain Vision Transformer, patches of 16 pixels."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..libraries import library
from .system import System

PATCH = 16
#: What images are normalised with, for every system.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ARCHITECTURES = {
    "vit_mini": {"embed_dim": 48, "depth": 4, "num_heads": 3},  # for tests
    "vit_small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "vit_base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "vit_large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
}

Weights = Mapping[str, Tensor] | str | os.PathLike[str]


def image_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) that the patches divide, or ValueError."""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < PATCH or height % PATCH or width % PATCH:
        raise ValueError(f"size: expected multiples of {PATCH} pixels; found {height} x {width}")
    return height, width


def plain_vit(
    name: str, *, classes: int, size: int | tuple[int, int], weights: Weights | None = None, drop_path: float = 0.0
) -> nn.Module:
    """A ViT with class token and a new head.

    Args:
        name: of `ARCHITECTURES`.
        classes: C outputs of the head; 0: none.
        size: of the images, pixels: one side or (height, width), multiples of 16.
        weights: state dict with timm's names, or its path; its head is left out, and its position table is resampled
            to the grid of `size`. It decides whether there is LayerScale. None: random.
        drop_path: stochastic depth of the last block; it rises linearly from 0.

    Raises:
        ValueError: an unknown name, a size that patches do not divide, or weights of another architecture.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"name: expected one of {', '.join(ARCHITECTURES)}; found {name!r}")
    height, width = image_size(size)
    library("timm")
    from timm.models.vision_transformer import VisionTransformer

    state = None if weights is None else read_weights(weights)
    options: dict[str, Any] = dict(ARCHITECTURES[name])
    if state is not None and any(".ls1." in key for key in state):
        options["init_values"] = 1.0  # its values come from the state dict
    vit = VisionTransformer(
        img_size=(height, width), patch_size=PATCH, num_classes=classes, drop_path_rate=drop_path, **options
    )
    if state is not None:
        _load(vit, state, name)
    return vit


def read_weights(weights: Weights) -> dict[str, Tensor]:
    """The state dict, in float32 and without a head."""
    state = weights if isinstance(weights, Mapping) else torch.load(weights, map_location="cpu", weights_only=True)
    return {key: value.float() for key, value in state.items() if not key.startswith("head.")}


def _load(vit: nn.Module, state: dict[str, Tensor], name: str) -> None:
    from timm.layers import resample_abs_pos_embed

    own = vit.state_dict()
    state = dict(state)
    table = state.get("pos_embed")
    if table is not None and table.dim() == 3 and table.shape[2] == own["pos_embed"].shape[2]:
        state["pos_embed"] = resample_abs_pos_embed(table, list(vit.patch_embed.grid_size))
    expected = {key: tuple(value.shape) for key, value in own.items() if not key.startswith("head.")}
    found = {key: tuple(value.shape) for key, value in state.items()}
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            raise ValueError(
                f"weights: expected those of {name}, with {key} {expected.get(key, 'absent')}; "
                f"found {found.get(key, 'absent')}"
            )
    vit.load_state_dict(state, strict=False)


class PlainViT(System):
    """The backbone itself, on its fixed patches."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def added(self) -> list[nn.Module | nn.Parameter]:
        return [self.backbone.head]

    def forward(self, images: Tensor, partition: None = None) -> Tensor:
        self._counts = [self.backbone.patch_embed.num_patches] * len(self.backbone.blocks)
        return self.backbone(images)
