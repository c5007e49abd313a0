"""The backbones with heads for segmentation, and SegFormer."""

import os
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

import dhvt_kernels as dk

from ..libraries import library
from .adaptive import added_by_retrofit
from .system import System

#: SegFormer's sizes, by name: blocks and width of each of four stages, width of the decoder.
SEGFORMERS = {
    "mini": {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "decoder_hidden_size": 16},  # for tests
    "b2": {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768},
}


def upernet_layers(depth: int) -> tuple[int, ...]:
    """The four blocks whose tokens UperNet sees: those that end the quarters."""
    return tuple(depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4))


class LinearHead(nn.Module):
    """A linear layer on the patches of the last block."""

    def __init__(self, width: int, classes: int, depth: int) -> None:
        super().__init__()
        self.layers = (depth - 1,)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classifier(maps[0])


class UperNet(nn.Module):
    """UperNet on the patches of four blocks, brought to strides of 4, 8, 16 and 32 pixels by the usual necks."""

    def __init__(self, width: int, classes: int, depth: int, channels: int) -> None:
        super().__init__()
        library("transformers")
        from transformers import UperNetConfig
        from transformers.models.upernet.modeling_upernet import UperNetHead

        self.layers = upernet_layers(depth)
        self.necks = nn.ModuleList(
            [
                nn.Sequential(_double(width), nn.BatchNorm2d(width), nn.GELU(), _double(width)),
                _double(width),
                nn.Identity(),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
        )
        self.decoder = UperNetHead(UperNetConfig(num_labels=classes, hidden_size=channels), [width] * 4)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.decoder([neck(level) for neck, level in zip(self.necks, maps, strict=True)])


def _double(width: int) -> nn.Module:
    return nn.ConvTranspose2d(width, width, 2, stride=2)


class PatchSegmenter(System):
    """The plain ViT's patches, as maps `[B,D,H/16,W/16]` after the final norm, and a head; bilinear to the pixels."""

    def __init__(self, backbone: nn.Module, head: LinearHead | UperNet) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def added(self) -> list[nn.Module | nn.Parameter]:
        return [self.head]

    def forward(self, images: Tensor, partition: None = None) -> Tensor:
        self._counts = [self.backbone.patch_embed.num_patches] * len(self.backbone.blocks)
        layers = list(self.head.layers)
        maps = self.backbone.forward_intermediates(images, indices=layers, norm=True, intermediates_only=True)
        return upsample(self.head(maps), images)


class TokenSegmenter(System):
    """A retrofitted backbone, and a head of this package that writes tokens back to their pixels."""

    def __init__(self, vit: dk.Retrofit, head: nn.Module) -> None:
        super().__init__()
        self.segmenter = dk.heads.Segmenter(vit, head)

    def added(self) -> list[nn.Module | nn.Parameter]:
        return [self.segmenter.head, *added_by_retrofit(self.segmenter.vit)]

    def tokenize(self, images: Tensor) -> dk.Partition:
        return self.segmenter.vit.tokenize(images)

    def forward(self, images: Tensor, partition: dk.Partition | None = None) -> Tensor:
        partition = self.tokenize(images) if partition is None else partition
        self._counts = [partition.counts] * len(self.segmenter.vit.model.blocks)
        return self.segmenter(images, partition)


class SegFormer(System):
    """SegFormer of transformers; bilinear to the pixels.

    Args:
        size: of `SEGFORMERS`.
        classes: number of classes.
        weights: folder of a checkpoint of transformers, of which a head for another number of classes is left out.
            None: random.
    """

    def __init__(self, size: str, classes: int, weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        library("transformers")
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        config = SegformerConfig(num_labels=classes, **SEGFORMERS[size])
        self.scratch = weights is None
        if weights is None:
            self.model = SegformerForSemanticSegmentation(config)
        else:
            self.model = SegformerForSemanticSegmentation.from_pretrained(
                weights, config=config, ignore_mismatched_sizes=True, local_files_only=True
            )

    def added(self) -> list[nn.Module | nn.Parameter]:
        return [self.model.decode_head, *([self.model.segformer] if self.scratch else [])]

    def forward(self, images: Tensor, partition: None = None) -> Tensor:
        height, width = images.shape[2:]
        self._counts = [
            -(-height // stride) * -(-width // stride)
            for stride, depth in zip((4, 8, 16, 32), self.model.config.depths, strict=True)
            for _ in range(depth)
        ]
        return upsample(self.model(images).logits, images)


def upsample(logits: Tensor, images: Tensor) -> Tensor:
    """Logits of a coarser grid at the pixels of the images."""
    return F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)


def token_head(kind: str, width: int, classes: int, depth: int, channels: int) -> nn.Module:
    """`"linear"` or `"upernet"`, for `TokenSegmenter`."""
    if kind == "linear":
        return dk.heads.DenseHead(width, classes)
    library("transformers")
    return dk.heads.UperNetHead(width, classes, layers=upernet_layers(depth), channels=channels)
