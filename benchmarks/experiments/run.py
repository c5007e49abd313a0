"""Runs the entries of a table, and keeps what is done if it is stopped."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import models
from ..measure import peak_memory
from ..models import System, classifier
from .data import CAMVID_CLASSES, Pictures, caltech101, camvid, split
from .fit import cross_entropy, fit, normalise, predict
from .frozen import answers, classify, fit_head, see
from .measures import accuracy, clock, mean_iou
from .plans import Entry, Plan

Tell = Callable[[str], None]


class Table:
    """One table on one data set.

    Args:
        plan: what to run.
        data: folder of the data set.
        weights: of the backbone; None: random.
        device: where.
    """

    def __init__(self, plan: Plan, data: Path, weights: Path | None, device: torch.device) -> None:
        self.plan, self.weights, self.device = plan, weights, device
        self.dense = plan.table == "table2"
        if self.dense:
            self.train, self.validation = camvid(data, plan.size)
            self.classes = CAMVID_CLASSES
        else:
            whole = isinstance(plan.train, int) and isinstance(plan.validation, int)
            number = int(plan.train + plan.validation) if whole else None
            self.pictures = caltech101(data, plan.size[0], classes=plan.classes, number=number)
            self.classes = int(self.pictures.targets.max()) + 1

    def inputs(self) -> dict[str, Any]:
        """What the figures depend on beside the plan: the weights and the photographs."""
        digest = "random" if self.weights is None else hashlib.sha256(self.weights.read_bytes()).hexdigest()[:16]
        return {
            "weights": digest,
            "photographs": len(self.train) + len(self.validation) if self.dense else len(self.pictures),
        }

    def build(self, entry: Entry, seed: int) -> System:
        """The system of an entry, with a head that the seed draws."""
        torch.manual_seed(seed)
        make = models.segmenter if self.dense else classifier
        options = dict(entry.options)
        if entry.system != "segformer":
            options["weights"] = self.weights
        system = make(entry.system, classes=self.classes, size=entry.size, tokens=entry.tokens, **options)
        return system.to(self.device)

    def run(self, entry: Entry) -> "list[dict[str, float]]":
        """The figures of an entry, one for each seed."""
        work = self._frozen if self.plan.frozen else self._tuned
        return work(entry)

    def clock(self, entries: list[Entry]) -> dict[str, dict[str, float]]:
        """ms per image of every entry, side by side."""
        systems = {entry.name: self.build(entry, 0).eval() for entry in entries}
        pictures = self.validation if self.dense else self.pictures
        every = max(1, len(pictures) // self.plan.device_batch)
        some = pictures.images[::every][: self.plan.device_batch]
        images = {entry.name: normalise(self._scaled(some, entry), self.device) for entry in entries}
        return clock(systems, images)

    def _tuned(self, entry: Entry) -> list[dict[str, float]]:
        found = []
        for seed in range(self.plan.seeds):
            train, validation = (self._seen_by(part, entry) for part in self._split(seed))
            system = self.build(entry, seed)
            memory = self._memory(lambda: fit(system, train, cross_entropy, self.plan.recipe, seed))  # noqa: B023
            figures = self._measure(predict(system, validation, self.plan.recipe.batch))
            found.append({**figures, "mb": memory})
        return found

    def _frozen(self, entry: Entry) -> list[dict[str, float]]:
        system = self.build(entry, 0)
        if not self.dense:
            pictures = self._seen_by(self.pictures, entry)
            memory = self._memory(lambda: see(system, pictures[torch.arange(self.plan.recipe.batch)]))
            seen, tokens = see(system, pictures)
            mean = sum(tokens) / len(tokens)
            targets = self.pictures.targets
            splits = [self._indices(seed) for seed in range(self.plan.seeds)]
            return [{"top1": classify(seen, targets, *parts), "tokens": mean, "mb": memory} for parts in splits]
        parts = [see(system, part) for part in (self.train, self.validation)]
        found = []
        for seed in range(self.plan.seeds):
            system = self.build(entry, seed)
            memory = self._memory(
                lambda: fit_head(system, parts[0][0], self.train.targets, cross_entropy, self.plan.recipe, seed)  # noqa: B023
            )
            batches = answers(system, parts[1][0], self.validation.targets, parts[1][1], self.plan.recipe.batch)
            found.append({**self._measure(batches), "mb": memory})
        return found

    def _memory(self, call: Callable[[], Any]) -> float:
        """MB at the highest point of a call above what was in use before."""
        return (peak_memory(call, str(self.device)) or float("nan")) / 1e6

    def _measure(self, batches: Any) -> dict[str, float]:
        return mean_iou(batches) if self.dense else accuracy(batches)

    def _split(self, seed: int) -> tuple[Pictures, Pictures]:
        if self.dense:
            return self.train, self.validation
        train, validation = self._indices(seed)
        return self.pictures[train], self.pictures[validation]

    def _indices(self, seed: int) -> tuple[Tensor, Tensor]:
        return split(self.pictures.targets, self.plan.train, self.plan.validation, seed)

    def _seen_by(self, pictures: Pictures, entry: Entry) -> Pictures:
        return Pictures(self._scaled(pictures.images, entry), pictures.targets)

    def _scaled(self, images: Tensor, entry: Entry) -> Tensor:
        """The images at the entry's size."""
        if entry.size == self.plan.size:
            return images
        scaled = torch.nn.functional.interpolate(
            images.float(), size=entry.size, mode="bicubic", antialias=True, align_corners=False
        )
        return scaled.round().clamp(0, 255).byte()


def run(table: Table, path: Path, provenance: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Everything of a table; written to `path` after every entry, and taken up from there if nothing has changed."""
    plan = table.plan
    about = {**provenance, "plan": json.loads(json.dumps(asdict(plan))), **table.inputs()}
    record: dict[str, Any] = {**about, "done": False, "figures": {}}
    if path.exists():
        before = json.loads(path.read_text())
        if not before["done"] and all(before.get(key) == value for key, value in about.items()):
            record["figures"] = before["figures"]
    for entry in plan.entries:
        if entry.name in record["figures"]:
            continue
        found = table.run(entry)
        record["figures"][entry.name] = found
        tell(f"{entry.name}: " + ", ".join(f"{figures[plan.measure]:.1f}" for figures in found))
        save(record, path)
    record["clock"] = table.clock(list(plan.entries))
    record["done"] = True
    save(record, path)
    return record


def save(record: dict[str, Any], path: Path) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(path)
