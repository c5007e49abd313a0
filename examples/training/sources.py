"""Where images and their labels come from: a source has a length, reads one sample, and orders an epoch."""

import io
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from .config import ConfigError, Data

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class Source(Protocol):
    classes: list[str] | None  # names by number, where the source has them

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """For messages."""

    def read(self, index: int) -> tuple[Image.Image, Any]:
        """The image in RGB, and its class (an int) or its label map (an image); an error where it is corrupt."""

    def order(self, generator: np.random.Generator) -> np.ndarray:
        """A random order of the samples, in which they are read well."""


def open_image(file: Any) -> Image.Image:
    """Decoded to the end, so that a truncated file fails here."""
    return Image.open(file).convert("RGB")


def open_labels(file: Any) -> Image.Image:
    image = Image.open(file)
    if image.mode not in ("L", "P", "I;16", "I"):
        raise ValueError(f"expected a label map of one channel; found mode {image.mode}")
    image.load()
    return image


class Files:
    """Pairs of an image file and its class, or its file of labels."""

    def __init__(self, paths: list[Path], labels: list[int] | list[Path], classes: list[str] | None = None) -> None:
        # Arrays, not lists: the workers share their memory.
        self.paths = np.array([os.fsencode(path) for path in paths])
        self.labels = np.array([label if isinstance(label, int) else os.fsencode(label) for label in labels])
        self.classes = classes

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return os.fsdecode(self.paths[index])

    def read(self, index: int) -> tuple[Image.Image, Any]:
        label = self.labels[index].item()
        return open_image(self.name(index)), label if isinstance(label, int) else open_labels(os.fsdecode(label))

    def order(self, generator: np.random.Generator) -> np.ndarray:
        return generator.permutation(len(self))


def images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ConfigError(f"data: expected a folder of images; found none at {folder}")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)


def class_folders(root: Path, classes: int) -> Files:
    """CLASS/NAME.jpg; classes are numbered in the order of their names."""
    if not root.is_dir():
        raise ConfigError(f"data: expected a folder with one folder per class; found none at {root}")
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    if len(folders) != classes:
        raise ConfigError(f"model.classes: expected as many as the folders in {root}, {len(folders)}; found {classes}")
    found = [(path, number) for number, folder in enumerate(folders) for path in images_in(folder)]
    names = [folder.name for folder in folders]
    return Files([path for path, _ in found], [number for _, number in found], names)


def ade20k(root: Path, split: str) -> Files:
    """images/SPLIT/NAME.jpg and annotations/SPLIT/NAME.png, as in ADEChallengeData2016."""
    return _with_labels(images_in(root / "images" / split), root / "annotations" / split)


def pairs(root: Path) -> Files:
    """NAME.jpg and NAME.png in one folder."""
    return _with_labels([path for path in images_in(root) if path.suffix.lower() != ".png"], None)


def _with_labels(images: list[Path], folder: Path | None) -> Files:
    labels = [(folder or path.parent) / f"{path.stem}.png" for path in images]
    missing = [path for path in labels if not path.is_file()]
    if missing:
        raise ConfigError(f"data: expected labels for each image; {len(missing)} are missing, such as {missing[0]}")
    return Files(images, labels)


class HuggingFace:
    """A data set of the library `datasets`, by its name or folder (saved by it, or in a form that it knows)."""

    def __init__(self, data: Data, place: str, split: str) -> None:
        import datasets

        if (Path(place) / "state.json").is_file() or (Path(place) / "dataset_dict.json").is_file():
            found = datasets.load_from_disk(place)
        else:
            try:
                found = datasets.load_dataset(place)
            except Exception as error:  # of the library, of the hub, of the network
                raise ConfigError(f"data: expected a Hugging Face data set at {place}; found none: {error}") from error
        if isinstance(found, datasets.DatasetDict):
            if split not in found:
                raise ConfigError(f"data: expected the split {split} in {place}; found {', '.join(found)}")
            found = found[split]
        self.image, self.label = data.image_column, data.label_column
        for column in (self.image, self.label):
            if column not in found.column_names:
                raise ConfigError(f"data: expected the column {column} in {place}; found {found.column_names}")
            if isinstance(found.features[column], datasets.Image):
                # Decoded here, where a corrupt image is caught.
                found = found.cast_column(column, datasets.Image(decode=False))
        self.classes = getattr(found.features[self.label], "names", None)
        self.rows, self.place = found.select_columns([self.image, self.label]), place

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return f"{self.place}, row {index}"

    def read(self, index: int) -> tuple[Image.Image, Any]:
        row = self.rows[int(index)]
        label = row[self.label]
        return open_image(_file(row[self.image])), label if isinstance(label, int) else open_labels(_file(label))

    def order(self, generator: np.random.Generator) -> np.ndarray:
        return generator.permutation(len(self))


def _file(value: dict[str, Any]) -> Any:
    return io.BytesIO(value["bytes"]) if value["bytes"] is not None else value["path"]
