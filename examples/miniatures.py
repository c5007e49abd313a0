"""Write a miniature data set, cut from photographs of scikit-image: what the training scripts can be tried on.

    python examples/miniatures.py --output mini

Crops of two photographs in class folders, `train` and `val`, for `mini_classification.yaml`; and in the folders of
ADE20K, with three classes by brightness, for `mini_segmentation.yaml`.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

CLASSES = {"astronaut": skimage.data.astronaut, "coffee": skimage.data.coffee}


def crops(number: int, first: int = 0) -> Iterator[tuple[int, str, Image.Image]]:
    """(class, name, image of 80 x 60), `number` of each class."""
    for label, (name, photograph) in enumerate(CLASSES.items()):
        image = Image.fromarray(photograph())
        for i in range(first, first + number):
            left, top = 37 * i % (image.width - 80), 23 * i % (image.height - 60)
            yield label, f"{name}_{i}", image.crop((left, top, left + 80, top + 60))


def labels_of(image: Image.Image) -> Image.Image:
    """0, 1 or 2 by brightness."""
    bright = np.array(image.convert("L"))
    return Image.fromarray((bright > 80).astype(np.uint8) + (bright > 160).astype(np.uint8))


def class_folders(root: Path, number: int, first: int = 0) -> Path:
    for label, name, image in crops(number, first):
        folder = root / list(CLASSES)[label]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{name}.jpg")
    return root


def ade20k(root: Path, number: int, held_out: int | None = None) -> Path:
    """0 is ignored, 1 to 3 are classes."""
    for split, count, first in (("training", number, 0), ("validation", held_out or number, number)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for _, name, image in crops(count, first):
            labels = np.array(labels_of(image)) + 1
            labels[:5] = 0
            image.save(root / "images" / split / f"{name}.jpg")
            Image.fromarray(labels).save(root / "annotations" / split / f"{name}.png")
    return root


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("mini"), help="folder (default: mini)")
    output = parser.parse_args(arguments).output
    class_folders(output / "train", 24)
    class_folders(output / "val", 6, first=24)
    ade20k(output, 24, held_out=6)
    print(f"{output}: 60 crops of {len(CLASSES)} classes, and the same with label maps")


if __name__ == "__main__":
    main()
