"""For the tests of training, skipped without its libraries: photographs in the folder formats of real data sets."""

import io
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from vits import library

for needed in ("accelerate", "datasets", "omegaconf", "tensorboard", "timm", "torchvision", "webdataset"):
    if find_spec(needed) is None:
        pytest.skip(f"training needs {needed}", allow_module_level=True)
library("timm")

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import datasets  # noqa: E402
from miniatures import CLASSES, ade20k, class_folders, crops, labels_of  # noqa: E402

__all__ = ["ade20k", "class_folders", "corrupt", "crops", "hugging_face", "labels_of", "pairs", "shards"]


def jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def corrupt(root):
    """One image of text, one cut off; their names."""
    first, second = sorted(root.rglob("*.jpg"))[1::4][:2]
    first.write_text("no image")
    second.write_bytes(second.read_bytes()[:300])
    return [str(first), str(second)]


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
