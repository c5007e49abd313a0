"""Batches that depend on the seed and the step alone: not on workers, processes, or where a run was resumed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .augment import LabelError, Transform, mixing
from .config import Config, ConfigError
from .shards import Shards
from .sources import HuggingFace, Source, ade20k, class_folders, pairs

#: After so many corrupt images in a row something else is wrong, such as a disk that is gone.
MOST_CORRUPT = 100


def open_source(config: Config, training: bool) -> Source:
    """The training set, or the validation set."""
    data, classes = config.data, config.model.classes
    place = data.train if training else data.val
    source: Source
    if data.format == "folder":
        source = class_folders(Path(place), classes)
    elif data.format == "ade20k":
        source = ade20k(Path(place), "training" if training else "validation")
    elif data.format == "pairs":
        source = pairs(Path(place))
    elif data.format == "webdataset":
        source = Shards(place, config.task == "segmentation")
    else:
        source = HuggingFace(data, place, data.train_split if training else data.val_split)
    if len(source) == 0:
        raise ConfigError(f"data: expected images; found none at {place}")
    return source


def check_classes(source: Source, held_out: Source) -> None:
    """A number has to mean the same class in training and in validation."""
    ours, theirs = source.classes, held_out.classes
    if ours and theirs and ours != theirs:
        missing, more = ", ".join(sorted({*ours} - {*theirs})), ", ".join(sorted({*theirs} - {*ours}))
        different = (
            f"without {missing or 'none'}, and with {more or 'none'} besides" if missing or more else "in another order"
        )
        raise ConfigError(f"data.val: expected the classes of data.train; found them {different}")


#: What random numbers are for: streams of different purposes have nothing in common.
WEIGHTS, STEP, ORDER, SAMPLE, MIXING = range(1, 6)


def derive(purpose: int, *numbers: int) -> int:
    """A seed from a purpose above and numbers. `SeedSequence` cannot tell a zero at the end from nothing."""
    return int(np.random.SeedSequence([purpose, *numbers, 1]).generate_state(1, np.uint64)[0])


class seeded:
    """Random numbers of the CPU start from a seed in here, and go on as before after."""

    def __init__(self, *numbers: int) -> None:
        self.seed = derive(*numbers)

    def __enter__(self) -> None:
        self.state = torch.get_rng_state()
        torch.default_generator.manual_seed(self.seed)

    def __exit__(self, *error: Any) -> None:
        torch.set_rng_state(self.state)


@dataclass
class Sample:
    image: Tensor
    label: Tensor
    valid: bool  # False: takes no part in an evaluation
    skipped: list[str]  # corrupt images that it stands for
    key: tuple[int, int]


class Samples(Dataset[Sample]):
    """Samples by (epoch, index). A corrupt one is replaced by the next good one of the source, or is not valid."""

    def __init__(self, source: Source, transform: Transform, seed: int, replace: bool) -> None:
        self.source, self.transform, self.seed, self.replace = source, transform, seed, replace

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        if index < 0:  # evens out the processes
            return Sample(*self._nothing(), False, [], key)
        skipped: list[str] = []
        for number in range(min(len(self.source), MOST_CORRUPT)):
            place = (index + number) % len(self.source)
            name = self.source.name(place)
            with seeded(SAMPLE, self.seed, epoch, index):
                try:
                    image, label = self.source.read(place)
                    return Sample(*self.transform(image, label, name), True, skipped, key)
                except LabelError:
                    raise
                except Exception as error:  # decoders raise anything
                    skipped.append(f"{name}: {error}")
            if not self.replace:
                return Sample(*self._nothing(), False, skipped, key)
        raise RuntimeError(f"data: expected images; {len(skipped)} in a row are corrupt, the last: {skipped[-1]}")

    def _nothing(self) -> tuple[Tensor, Tensor]:
        side = self.transform.size
        label = torch.zeros((side, side) if self.transform.label_maps else (), dtype=torch.int64)
        return torch.zeros(3, side, side), label


@dataclass
class Batch:
    images: Tensor  # [B,3,H,W]
    labels: Tensor  # [B], [B,classes] or [B,H,W]
    valid: Tensor  # bool [B]
    skipped: list[str]

    def pin_memory(self) -> "Batch":
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.valid, self.skipped)


class Collate:
    def __init__(self, config: Config, training: bool) -> None:
        self.mix, self.seed = mixing(config) if training else None, config.train.seed

    def __call__(self, samples: list[Sample]) -> Batch:
        images, labels = (
            torch.stack(list(values)) for values in zip(*((s.image, s.label) for s in samples), strict=True)
        )
        if self.mix is not None:
            with seeded(MIXING, self.seed, *samples[0].key):
                images, labels = self.mix(images, labels)
        valid = torch.tensor([sample.valid for sample in samples])
        return Batch(images, labels, valid, [name for sample in samples for name in sample.skipped])


@dataclass
class Order:
    """Keys of one process's batches from a step on, epoch after epoch."""

    source: Source
    config: Config
    start: int
    stop: int
    process: int
    processes: int

    def __post_init__(self) -> None:
        train = self.config.train
        parts = self.processes * train.accumulate
        if train.batch_size % parts:
            raise ConfigError(
                f"train.batch_size: expected a multiple of processes x train.accumulate = {parts}; "
                f"found {train.batch_size}"
            )
        self.rows = train.batch_size // parts
        self.per_epoch = steps_per_epoch(self.source, self.config)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        train, epoch = self.config.train, -1
        for step in range(self.start, self.stop):
            if step // self.per_epoch != epoch:
                epoch = step // self.per_epoch
                order = self.source.order(np.random.default_rng(derive(ORDER, train.seed, epoch)))
            first = step % self.per_epoch * train.batch_size + self.process * self.rows
            for part in range(train.accumulate):
                place = first + part * self.processes * self.rows
                yield [(epoch, int(index)) for index in order[place : place + self.rows]]


def steps_per_epoch(source: Source, config: Config) -> int:
    """Samples that fill no batch are left out; each epoch others."""
    steps = len(source) // config.train.batch_size
    if steps == 0:
        raise ConfigError(
            f"train.batch_size: expected at most the {len(source)} training images; found {config.train.batch_size}"
        )
    return steps


def loader(samples: Samples, collate: Collate, order: Any, workers: int) -> DataLoader[Batch]:
    return DataLoader(
        samples,
        batch_sampler=order,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )


def validation_order(length: int, rows: int, process: int, processes: int) -> list[list[tuple[int, int]]]:
    """Every sample once over all processes; each has as many batches, the last ones filled with nothing (-1)."""
    total = -(-length // (rows * processes)) * rows * processes
    indices = [index if index < length else -1 for index in range(process, total, processes)]
    return [[(0, index) for index in indices[first : first + rows]] for first in range(0, len(indices), rows)]
