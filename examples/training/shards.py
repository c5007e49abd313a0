"""WebDataset shards with an index: any sample can be read, so a run is resumed at any step and on any processes."""

import glob
import io
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from webdataset.shardlists import expand_urls
from webdataset.tariterators import base_plus_ext

from .config import ConfigError
from .sources import open_image, open_labels

IMAGES = ("jpg", "jpeg", "png", "webp")
LABEL_MAPS = ("seg.png", "mask.png", "png")
#: So many shards are shuffled together: reads stay near each other on the disk.
GROUP = 16


class Shards:
    """Local tar files of `KEY.jpg` with `KEY.cls` (a number), or `KEY.seg.png` (labels; also `mask.png`, `png`)."""

    def __init__(self, pattern: str, segmentation: bool) -> None:
        self.classes = None
        self.paths = [path for url in expand_urls(pattern) for path in sorted(glob.glob(url)) or [url]]
        self.labels = LABEL_MAPS if segmentation else ("cls",)
        rows, keys = [], []
        for number, path in enumerate(self.paths):
            if not Path(path).is_file():
                raise ConfigError(f"data: expected WebDataset shards on a local disk; found no file {path}")
            samples = _members(path)
            last = next(reversed(samples), "")
            for key, members in samples.items():
                image = next((members[name] for name in IMAGES if name in members), None)
                label = next((members[name] for name in self.labels if name in members), None)
                if (image is None or label is None) and key == last and len(samples) > 1:
                    # Cut off: the library reads on in silence.
                    warnings.warn(f"{path} ends in the middle of a sample, after {len(samples) - 1}", stacklevel=2)
                    continue
                if image is None or label is None:
                    raise ConfigError(
                        f"data: expected an image and one of {', '.join(self.labels)}; {path} has of {key} only "
                        f"{', '.join(members)}"
                    )
                rows.append((number, *image, *label))
                keys.append(key)
        self.keys = np.array(keys)  # arrays, not lists: the workers share their memory
        self.rows = np.array(rows, np.int64).reshape(-1, 5)

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return f"{self.paths[self.rows[index, 0]]}: {self.keys[index]}"

    def read(self, index: int) -> tuple[Image.Image, Any]:
        number, *places = self.rows[index].tolist()
        with open(self.paths[number], "rb") as file:
            image, label = (io.BytesIO(_bytes(file, *place)) for place in (places[:2], places[2:]))
        return open_image(image), int(label.read()) if self.labels == ("cls",) else open_labels(label)

    def order(self, generator: np.random.Generator) -> np.ndarray:
        number = len(self.paths)
        rank = np.empty(number, np.int64)
        rank[generator.permutation(number)] = np.arange(number)
        group = rank[self.rows[:, 0]] // GROUP
        return np.lexsort((generator.random(len(self)), group))


def _bytes(file: Any, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _members(path: str) -> dict[str, dict[str, tuple[int, int]]]:
    """Of each key in a shard, its files by extension: where they start and how long they are."""
    keys: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                key, extension = base_plus_ext(member.name)
                if member.isfile() and key is not None:
                    keys.setdefault(key, {})[extension.lower()] = (member.offset_data, member.size)
    except tarfile.ReadError as error:
        if not keys:
            raise ConfigError(f"data: {path}: expected a tar file, not compressed: {error}") from None
    return keys
