"""The systems that DHVT is compared with, under one interface (docs/comparison.md)."""

from typing import Any

from .adaptive import Adaptive, dhvt, slic
from .backbone import MEAN, STD, PlainViT, Weights, plain_vit
from .dynamicvit import DynamicViT, keep_ratio
from .segmentation import LinearHead, PatchSegmenter, SegFormer, TokenSegmenter, UperNet, token_head
from .system import TARGETS, System
from .tome import ToMe, schedule

__all__ = ["CLASSIFIERS", "MEAN", "SEGMENTERS", "STD", "System", "classifier", "segmenter"]

CLASSIFIERS = ("vit", "tome", "dynamicvit", "slic", "dhvt")
SEGMENTERS = ("vit-linear", "vit-upernet", "segformer", "slic-linear", "dhvt-linear", "dhvt-upernet")


def classifier(
    name: str,
    *,
    classes: int,
    size: int | tuple[int, int] = 224,
    tokens: int | None = None,
    weights: Weights | None = None,
    backbone: str = "vit_small",
    drop_path: float = 0.0,
    target: str = "mean",
    **options: Any,
) -> System:
    """A system that classifies images.

    Args:
        name: of `CLASSIFIERS`.
        classes: number of classes.
        size: of the images, pixels: one side or (height, width), multiples of 16.
        tokens: of an image: with `"tome"` and `"dynamicvit"` what the schedule is made for, with `"slic"` what is asked
            for, with `"dhvt"` the most. None: all patches; with `"dhvt"` what the criterion chooses. `"vit"` has its
            patches.
        weights: of the backbone (`plain_vit`).
        backbone: of `ARCHITECTURES`.
        drop_path: stochastic depth (`plain_vit`).
        target: which tokens `"tome"` and `"dynamicvit"` count: the `"mean"` over the blocks, or those of the `"last"`.
        **options: of the method: `reduction` of `ToMe`, `ratio` of `DynamicViT` in place of `tokens`; those of
            `SlicTokenizer` and of `dhvt`.

    Raises:
        ImportError: timm is missing.
        ValueError: an unknown name, or a value out of range.
    """
    if name not in CLASSIFIERS:
        raise ValueError(f"name: expected one of {', '.join(CLASSIFIERS)}; found {name!r}")
    _check_tokens(tokens)
    if target not in TARGETS:
        raise ValueError(f"target: expected one of {', '.join(TARGETS)}; found {target!r}")
    vit = plain_vit(backbone, classes=classes, size=size, weights=weights, drop_path=drop_path)
    patches, depth = vit.patch_embed.num_patches, len(vit.blocks)
    if name == "vit":
        return PlainViT(vit, **options)
    if name == "tome":
        return ToMe(vit, **(options or {"reduction": schedule(patches, depth, tokens or patches, target)}))
    if name == "dynamicvit":
        return DynamicViT(vit, **(options or {"ratio": keep_ratio(patches, depth, tokens or patches, target)}))
    if name == "slic":
        return Adaptive(slic(vit, tokens or patches, **options))
    return Adaptive(dhvt(vit, tokens, **options))


def segmenter(
    name: str,
    *,
    classes: int,
    size: int | tuple[int, int] = 224,
    tokens: int | None = None,
    weights: Weights | None = None,
    backbone: str = "vit_small",
    drop_path: float = 0.0,
    channels: int = 512,
    **options: Any,
) -> System:
    """A system that gives every pixel a class: images `[B,3,H,W]` to logits `[B,classes,H,W]`.

    Args:
        name: of `SEGMENTERS`.
        classes: number of classes.
        size: of the images, as for `classifier`; SegFormer takes any.
        tokens: as for `classifier`.
        weights: of the backbone, as for `classifier`; of `"segformer"`, a folder of transformers.
        backbone: as for `classifier`; `"segformer"` is B2, or tiny where this is `"vit_mini"`.
        drop_path: stochastic depth (`plain_vit`).
        channels: of UperNet's own maps.
        **options: of `SlicTokenizer` or of `dhvt`.

    Raises:
        ImportError: timm or transformers is missing.
        ValueError: an unknown name, or a value out of range.
    """
    if name not in SEGMENTERS:
        raise ValueError(f"name: expected one of {', '.join(SEGMENTERS)}; found {name!r}")
    _check_tokens(tokens)
    if name == "segformer":
        return SegFormer("mini" if backbone == "vit_mini" else "b2", classes, weights, **options)
    vit = plain_vit(backbone, classes=0, size=size, weights=weights, drop_path=drop_path)
    method, head = name.split("-")
    width, depth, patches = vit.embed_dim, len(vit.blocks), vit.patch_embed.num_patches
    if method == "vit":
        kind = LinearHead(width, classes, depth) if head == "linear" else UperNet(width, classes, depth, channels)
        return PatchSegmenter(vit, kind, **options)
    adaptive = slic(vit, tokens or patches, **options) if method == "slic" else dhvt(vit, tokens, **options)
    return TokenSegmenter(adaptive, token_head(head, width, classes, depth, channels))


def _check_tokens(tokens: int | None) -> None:
    if tokens is not None and tokens < 1:
        raise ValueError(f"tokens: expected at least 1; found {tokens}")
