"""The systems that DHVT is compared with, under one interface (docs/comparison.md)."""

from typing import Any

from .adaptive import Adaptive, dhvt, slic
from .backbone import MEAN, STD, PlainViT, Weights, plain_vit
from .dynamicvit import DynamicViT, keep_ratio
from .system import System
from .tome import ToMe, schedule

__all__ = ["CLASSIFIERS", "MEAN", "STD", "System", "classifier"]

CLASSIFIERS = ("vit", "tome", "dynamicvit", "slic", "dhvt")


def classifier(
    name: str,
    *,
    classes: int,
    size: int | tuple[int, int] = 224,
    tokens: int | None = None,
    weights: Weights | None = None,
    backbone: str = "vit_small",
    drop_path: float = 0.0,
    **options: Any,
) -> System:
    """A system that classifies images.

    Args:
        name: of `CLASSIFIERS`.
        classes: number of classes.
        size: of the images, pixels: one side or (height, width), multiples of 16.
        tokens: of an image, mean over the blocks: with `"tome"` and `"dynamicvit"` what the schedule is made for, with
            `"slic"` what is asked for, with `"dhvt"` the most. None: all patches; with `"dhvt"` what the criterion
            chooses. `"vit"` has its patches.
        weights: of the backbone (`plain_vit`).
        backbone: of `ARCHITECTURES`.
        drop_path: stochastic depth (`plain_vit`).
        **options: of the method: `reduction` of `ToMe`, `ratio` of `DynamicViT` in place of `tokens`; those of
            `SlicTokenizer` and of `dhvt`.

    Raises:
        ImportError: timm is missing.
        ValueError: an unknown name, or a value out of range.
    """
    if name not in CLASSIFIERS:
        raise ValueError(f"name: expected one of {', '.join(CLASSIFIERS)}; found {name!r}")
    vit = plain_vit(backbone, classes=classes, size=size, weights=weights, drop_path=drop_path)
    patches, depth = vit.patch_embed.num_patches, len(vit.blocks)
    if name == "vit":
        return PlainViT(vit, **options)
    if name == "tome":
        return ToMe(vit, **(options or {"reduction": schedule(patches, depth, tokens or patches)}))
    if name == "dynamicvit":
        return DynamicViT(vit, **(options or {"ratio": keep_ratio(tokens or patches, patches, depth)}))
    if name == "slic":
        return Adaptive(slic(vit, tokens or patches, **options))
    return Adaptive(dhvt(vit, tokens, **options))
