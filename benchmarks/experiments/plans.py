"""What each table consists of, in full and small."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .fit import Recipe

TABLES = ("table1", "table2", "depth", "criterion")


@dataclass(frozen=True)
class Entry:
    """A line of a table: a system with a number of tokens."""

    method: str
    """What the line is called."""
    system: str
    """Its name in `benchmarks.models`."""
    size: tuple[int, int]
    """Height and width that it sees, pixels."""
    tokens: int | None = None
    """Budget (see `benchmarks.models.classifier`)."""
    options: Mapping[str, Any] = field(default_factory=dict)
    budget: int | None = None
    """Column of the table."""

    @property
    def name(self) -> str:
        return self.method if self.budget is None else f"{self.method}, {self.budget}"


@dataclass(frozen=True)
class Plan:
    """A table: the same data, seeds and training for all of its entries."""

    table: str
    small: bool
    entries: tuple[Entry, ...]
    recipe: Recipe
    size: tuple[int, int]
    #: Only the head is trained, on what the backbone says once of each photograph.
    frozen: bool = False
    seeds: int = 3
    #: Of Caltech-101: how many classes (None: all), and photographs or shares of each for training and validation.
    classes: int | None = None
    train: float | int = 0.8
    validation: float | int = 0.2
    device_batch: int = 64

    @property
    def measure(self) -> str:
        return "miou" if self.table == "table2" else "top1"


def plan(table: str, small: bool) -> Plan:
    """The plan of a table of `TABLES`."""
    return {"table1": _table1, "table2": _table2, "depth": _depth, "criterion": _criterion}[table](small)


def _table1(small: bool) -> Plan:
    side, budgets = (128, (25, 36, 64)) if small else (224, (64, 128, 196))
    whole, entries = (side // 16) ** 2, []
    for budget in budgets:
        fewer = 16 * int(budget**0.5)  # fixed patches have fewer tokens where the image has fewer pixels
        entries.append(Entry("fixed patches", "vit", (fewer, fewer), budget=budget))
        if budget < whole:
            entries += [
                Entry("ToMe", "tome", (side, side), budget, budget=budget),
                Entry("DynamicViT", "dynamicvit", (side, side), budget, budget=budget),
            ]
        entries += [
            Entry("SLIC", "slic", (side, side), budget, budget=budget),
            Entry("DHVT", "dhvt", (side, side), budget, budget=budget),
        ]
    if small:
        recipe = Recipe(epochs=3, batch=8)
        return Plan(
            "table1", True, tuple(entries), recipe, (side, side), classes=12, train=15, validation=20, device_batch=8
        )
    return Plan("table1", False, tuple(entries), Recipe(epochs=5, batch=64), (side, side))


def _table2(small: bool) -> Plan:
    size = (144, 192) if small else (288, 384)
    patches = size[0] * size[1] // 256
    names = {
        "fixed patches, linear": "vit-linear",
        "fixed patches, UperNet": "vit-upernet",
        "SLIC, linear": "slic-linear",
        "DHVT, linear": "dhvt-linear",
        "DHVT, UperNet": "dhvt-upernet",
    }
    entries = [
        Entry(
            method,
            system,
            size,
            patches if system.startswith(("slic", "dhvt")) else None,
            {"channels": 32} if small and system.endswith("upernet") else {},
        )
        for method, system in names.items()
    ]
    if small:
        recipe = Recipe(epochs=4, batch=8)
        return Plan("table2", True, tuple(entries), recipe, size, frozen=True, device_batch=8)
    entries.append(Entry("SegFormer-B2, from scratch", "segformer", size))
    return Plan("table2", False, tuple(entries), Recipe(epochs=30, batch=16), size, device_batch=16)


def _depth(small: bool) -> Plan:
    side = 128 if small else 224
    entries = tuple(
        Entry(f"depth {depth}", "dhvt", (side, side), options={"cell": 16, "depth": depth}) for depth in (1, 2, 3, 4)
    )
    return _tokens_alone("depth", small, side, entries)


def _criterion(small: bool) -> Plan:
    side = 128 if small else 224
    patches = (side // 16) ** 2
    entries = tuple(
        Entry(
            f"{'fixed count' if criterion == 'fixed' else criterion.upper()}, {leaves} leaves",
            "dhvt",
            (side, side),
            patches if criterion == "fixed" else None,
            {"leaves": leaves if leaves == "soft" else "pixels", "criterion": criterion},
        )
        for leaves in ("soft", "pixel")
        for criterion in ("fixed", "aic", "bic", "mdl")
    )
    return _tokens_alone("criterion", small, side, entries)


def _tokens_alone(table: str, small: bool, side: int, entries: tuple[Entry, ...]) -> Plan:
    """A table in which only the tokens differ."""
    if small:
        recipe = Recipe(epochs=1, batch=32)
        return Plan(
            table,
            True,
            entries,
            recipe,
            (side, side),
            frozen=True,
            classes=40,
            train=15,
            validation=20,
            device_batch=8,
        )
    return Plan(table, False, entries, Recipe(epochs=5, batch=64), (side, side))
