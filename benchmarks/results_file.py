"""A result file of pytest-benchmark, read back: cases with their implementations."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One implementation of one case."""

    name: str
    kind: str
    median: float
    p20: float
    p80: float
    #: Time over ours, from the same rounds: median, 20th and 80th percentile.
    ratio: tuple[float, float, float]
    memory: int | None
    bytes: float
    flop: float

    @property
    def spread(self) -> float:
        return (self.p80 - self.p20) / self.median


@dataclass(frozen=True)
class Group:
    """A case on a number of threads, with everything that was measured side by side."""

    case: str
    operator: str
    direction: str
    shape: tuple[int, ...]
    threads: int
    rows: dict[str, Row]

    @property
    def ours(self) -> Row:
        """The first: the best backend that could run."""
        return next(iter(self.rows.values()))

    @property
    def others(self) -> list[Row]:
        return [row for row in self.rows.values() if row is not self.ours and row.kind != "ceiling"]

    def share(self, row: Row) -> float:
        """Share of the copy ceiling: the operator's least bytes per second of a row over those of the copy."""
        copy = self.rows["copy"]
        return (row.bytes / row.median) / (copy.bytes / copy.median)

    @property
    def copy_share(self) -> float:
        """Of ours."""
        return self.share(self.ours)

    @property
    def fma_share(self) -> float | None:
        """Share of the FMA ceiling: flop per second of ours over those of the matrix product."""
        ours, fma = self.ours, self.rows.get("FMA")
        return None if fma is None else (ours.flop / ours.median) / (fma.flop / fma.median)

    @property
    def pixels(self) -> int:
        return self.shape[0] * self.shape[2] * self.shape[3]


@dataclass(frozen=True)
class Results:
    path: Path
    groups: dict[tuple[str, int], Group]
    missing: list[str]
    document: dict[str, Any]

    @property
    def threads(self) -> int:
        """All threads: the most of any case."""
        return max((group.threads for group in self.groups.values()), default=1)

    def find(self, case: str, threads: int | None = None) -> Group | None:
        return self.groups.get((case, self.threads if threads is None else threads))

    @property
    def machine(self) -> str:
        """Machine, commit and versions in one paragraph."""
        info, commit = self.document["machine_info"], self.document["commit_info"]
        where = info["cpu"]["brand_raw"]
        if self.device.startswith("cuda"):
            where = f"{info.get('gpu')}, driver {info.get('driver')}, on {where}"
        versions = ", ".join(f"{name} {version}" for name, version in info.get("versions", {}).items())
        dirty = " (with uncommitted changes)" if commit.get("dirty") else ""
        return (
            f"{where}, {info.get('cores')} cores (kernels for {info.get('level')}), Python {info['python_version']}; "
            f"commit {str(commit.get('id'))[:10]}{dirty}, {self.document['datetime'][:10]}; {versions}"
        )

    @property
    def device(self) -> str:
        entries = self.document["benchmarks"]
        return entries[0]["extra_info"]["device"] if entries else "cpu"


def load(path: Path) -> Results:
    """Read a file that `pytest benchmarks --benchmark-json` wrote; ValueError with one line if it is another."""
    try:
        document = json.loads(path.read_text())
        groups: dict[tuple[str, int], Group] = {}
        for entry in document["benchmarks"]:
            extra = entry["extra_info"]
            key = (extra["case"], extra["threads"])
            if key not in groups:
                shape = tuple(extra["shape"])
                groups[key] = Group(extra["case"], extra["operator"], extra["direction"], shape, key[1], {})
            time, ratio = extra["seconds"], extra["ratio"]
            groups[key].rows[extra["implementation"]] = Row(
                extra["implementation"],
                extra["kind"],
                time["median"],
                time["p20"],
                time["p80"],
                (ratio["median"], ratio["p20"], ratio["p80"]),
                extra["memory"],
                extra["bytes"],
                extra["flop"],
            )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a result of `pytest benchmarks --benchmark-json`: {error!r}") from error
    return Results(path, groups, document.get("missing", []), document)
