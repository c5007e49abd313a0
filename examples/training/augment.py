"""Augmentations, all of torchvision: of one sample, and of a batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from .config import Augment, Config

#: Label of pixels that have none.
IGNORE = 255
INTERPOLATION = v2.InterpolationMode.BICUBIC


class Transform:
    """An image and its label to tensors for the model."""

    def __init__(self, config: Config, training: bool, mean: Sequence[float], std: Sequence[float]) -> None:
        size = config.model.image_size
        make = _segmentation if config.task == "segmentation" else _classification
        self.training = training
        self.steps = v2.Compose(make(config.augment, size)) if training else _evaluation(config.task, size)
        self.normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))])
        self.data, self.classes = config.data, config.model.classes
        self.size, self.label_maps = size, config.task == "segmentation"

    def __call__(self, image: Image.Image, label: Any, name: str) -> tuple[Tensor, Tensor]:
        picture = tv_tensors.Image(v2.functional.pil_to_tensor(image))
        target = label if isinstance(label, int) else self._label_map(label, image, name)
        if isinstance(target, int) and not 0 <= target < self.classes:
            raise LabelError(f"{name}: expected a class below model.classes = {self.classes}; found {target}")
        if self.training:
            picture, target = self.steps(picture, target)
        else:
            picture = self.steps(picture)
        return self.normalise(picture).as_subclass(Tensor), _plain(target)

    def _label_map(self, labels: Image.Image, image: Image.Image, name: str) -> tv_tensors.Mask:
        if labels.size != image.size:
            raise ValueError(f"expected labels of the image's size {image.size}; found {labels.size}")
        found = np.array(labels).astype(np.int64)
        if self.data.reduce_zero_label:
            found = np.where(found == 0, IGNORE, found - 1)
        found[np.isin(found, [*self.data.ignore_labels, IGNORE])] = IGNORE
        highest = int(found[found != IGNORE].max(initial=0))
        if highest >= self.classes:
            raise LabelError(
                f"{name}: expected labels below model.classes = {self.classes}, or ignored ones; found {highest}"
            )
        return tv_tensors.Mask(torch.from_numpy(found)[None])


class LabelError(Exception):
    """A label that the configuration does not allow: no corrupt image, so the run stops."""


def _plain(target: Any) -> Tensor:
    return torch.tensor(target) if isinstance(target, int) else target.as_subclass(Tensor)[0]


def _classification(augment: Augment, size: int) -> list[v2.Transform]:
    steps: list[v2.Transform] = [
        v2.RandomResizedCrop(size, scale=tuple(augment.scale), interpolation=INTERPOLATION, antialias=True),
        v2.RandomHorizontalFlip(augment.flip),
    ]
    if augment.randaugment:
        steps.append(v2.RandAugment(magnitude=augment.randaugment))
    if augment.jitter:
        steps.append(v2.ColorJitter(*3 * [augment.jitter]))
    if augment.erase:
        steps.append(v2.RandomErasing(augment.erase))
    return steps


def _segmentation(augment: Augment, size: int) -> list[v2.Transform]:
    least, most = (round(size * share) for share in augment.scale)
    sides = np.linspace(least, most, 13).round().astype(int).tolist()
    fill: dict[Any, Any] = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}
    steps: list[v2.Transform] = [
        v2.RandomShortestSize(sides, antialias=True),
        v2.RandomCrop(size, pad_if_needed=True, fill=fill),
        v2.RandomHorizontalFlip(augment.flip),
    ]
    if augment.jitter:
        steps.append(v2.ColorJitter(*3 * [augment.jitter]))
    return steps


def _evaluation(task: str, size: int) -> v2.Transform:
    """Classification: the central 7/8. Segmentation: the whole image, its short side as in training."""
    if task == "segmentation":
        return v2.Resize(size, antialias=True)
    return v2.Compose([v2.Resize(size * 8 // 7, INTERPOLATION, antialias=True), v2.CenterCrop(size)])


def mixing(config: Config) -> v2.Transform | None:
    """Mixup and CutMix of a batch, one of them at a time; labels become shares `[B,classes]`."""
    augment, classes = config.augment, config.model.classes
    choices = []
    if augment.mixup:
        choices.append(v2.MixUp(alpha=augment.mixup, num_classes=classes))
    if augment.cutmix:
        choices.append(v2.CutMix(alpha=augment.cutmix, num_classes=classes))
    return v2.RandomChoice(choices) if choices else None
