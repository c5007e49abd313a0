"""For the tests of training, skipped without its libraries: photographs in the folder formats of real data sets."""

import io
import tarfile
from importlib.util import find_spec

import numpy as np
import pytest
import skimage.data
from PIL import Image
from vits import library

for needed in ("accelerate", "datasets", "omegaconf", "tensorboard", "timm", "torchvision", "webdataset"):
    if find_spec(needed) is None:
        pytest.skip(f"training needs {needed}", allow_module_level=True)
library("timm")

import datasets  # noqa: E402

CLASSES = {"astronaut": skimage.data.astronaut, "coffee": skimage.data.coffee}


def crops(number, first=0):
    """(class, name, image 80 x 60)."""
    for label, (name, photograph) in enumerate(CLASSES.items()):
        image = Image.fromarray(photograph())
        for i in range(first, first + number):
            left, top = 37 * i, 23 * i
            yield label, f"{name}_{i}", image.crop((left, top, left + 80, top + 60))


def labels_of(image):
    """0, 1 or 2 by brightness."""
    bright = np.array(image.convert("L"))
    return Image.fromarray((bright > 80).astype(np.uint8) + (bright > 160).astype(np.uint8))


def jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def class_folders(root, number, first=0):
    for label, name, image in crops(number, first):
        folder = root / list(CLASSES)[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jpg").write_bytes(jpeg(image))
    return root


def corrupt(root):
    """One image of text, one cut off; their names."""
    first, second = sorted(root.rglob("*.jpg"))[1::4][:2]
    first.write_text("no image")
    second.write_bytes(second.read_bytes()[:300])
    return [str(first), str(second)]


def ade20k(root, number):
    """0 is ignored, 1 to 3 are classes."""
    for split, first in (("training", 0), ("validation", number)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for _, name, image in crops(number, first):
            labels = np.array(labels_of(image)) + 1
            labels[:5] = 0
            (root / "images" / split / f"{name}.jpg").write_bytes(jpeg(image))
            (root / "annotations" / split / f"{name}.png").write_bytes(png(Image.fromarray(labels)))
    return root


def pairs(root, number):
    root.mkdir()
    for _, name, image in crops(number):
        (root / f"{name}.jpg").write_bytes(jpeg(image))
        (root / f"{name}.png").write_bytes(png(labels_of(image)))
    return root


def shards(root, number, segmentation=False):
    """Two shards of one class each."""
    root.mkdir()
    for label, name, image in crops(number):
        with tarfile.open(root / f"shard-{label:03d}.tar", "a") as archive:
            label_file = ("seg.png", png(labels_of(image))) if segmentation else ("cls", str(label).encode())
            for extension, content in (("jpg", jpeg(image)), label_file):
                member = tarfile.TarInfo(f"{name}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return str(root / "shard-{000..001}.tar")


def hugging_face(root, number):
    """Saved by the library, with the splits train and validation."""
    splits = {}
    for split, first in (("train", 0), ("validation", number)):
        rows = [
            {"image": {"bytes": jpeg(image), "path": None}, "label": label} for label, _, image in crops(number, first)
        ]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
        splits[split] = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict(splits).save_to_disk(str(root))
    return str(root)
