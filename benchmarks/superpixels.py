"""Quality of segments on real photographs, beside other methods: a table, curves and a gallery.

    python -m benchmarks.superpixels --data FOLDER

Protocol: every method divides every photograph into about 50, 100, 200 and 400 segments; these are compared with each
human segmentation (mean over the annotators, then over the photographs). Deterministic: every run gives the same
figures.
"""

import argparse
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dhvt_kernels import connected_components, info
from dhvt_kernels.imaging import load_image

from . import superpixel_gallery as gallery
from . import superpixel_report as report
from .superpixel_measures import Labels, Truth
from .superpixel_methods import METHODS, Method

BUDGETS = (50, 100, 200, 400)
HOW_TO_GET = (
    "The photographs are those of BSDS500 (github.com/BIDS/BSDS500): of each ID an ID.jpg and an ID.npz with "
    "`segmentation`, uint16 [annotators,H,W]."
)

#: Of one photograph: per method and budget, the measures, `segments` and `pieces`.
Result = dict[str, list[dict[str, float]]]
S = TypeVar("S")
T = TypeVar("T")


def find_photographs(folder: Path) -> list[Path]:
    """The pictures that have human segmentations beside them, by name."""
    found = sorted(path for path in folder.glob("*.jpg") if path.with_suffix(".npz").exists())
    if not found:
        what = "no ID.jpg with its ID.npz in this folder" if folder.is_dir() else "no such folder"
        raise ValueError(f"{folder}: {what}. {HOW_TO_GET}")
    return found


def load_truth(path: Path) -> Truth:
    """One photograph with its human segmentations."""
    image = load_image(path).permute(1, 2, 0).contiguous().numpy()
    with np.load(path.with_suffix(".npz")) as arrays:
        humans = arrays["segmentation"]
    if humans.ndim != 3 or len(humans) == 0 or humans.shape[1:] != image.shape[:2]:
        expected = ["annotators", *image.shape[:2]]
        raise ValueError(f"{path.with_suffix('.npz')}: expected `segmentation` {expected}; found {list(humans.shape)}")
    return Truth(image, humans)


def count(labels: Labels) -> dict[str, float]:
    """How many segments a map really has, and how many 4-connected pieces: as many if all are connected."""
    pieces = connected_components(torch.from_numpy(np.ascontiguousarray(labels, np.int32))[None])
    return {"segments": np.count_nonzero(np.bincount(labels.ravel())), "pieces": int(pieces.counts[0])}


def measure(path: Path, methods: Sequence[Method]) -> Result:
    """Everything about one photograph."""
    truth = load_truth(path)
    return {
        method.name: [count(labels) | truth.measure(labels) for labels in method.divide(truth.image, BUDGETS)]
        for method in methods
    }


def _measure_by_name(path: Path, names: Sequence[str]) -> Result:
    return measure(path, [method for method in METHODS if method.name in names])


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interruption means
    torch.set_num_threads(1)


def in_workers(work: Callable[[S], T], pictures: Sequence[S]) -> Iterator[T]:
    """The pictures in their order, one process per core with one thread each."""
    workers = min(os.cpu_count() or 1, len(pictures))
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker)
    try:
        yield from pool.map(work, pictures)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def measure_all(paths: Sequence[Path], methods: Sequence[Method]) -> Iterator[Result]:
    """Everything about all photographs."""
    return in_workers(partial(_measure_by_name, names=[method.name for method in methods]), paths)


def collect(found: Iterable[T], number: int, console: Console, errors: Console) -> tuple[list[T], bool]:
    """What is found of so many photographs, with a progress bar; and whether it was stopped, which is told."""
    results, stopped = [], ""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
            for result in progress.track(found, number, description="photographs"):
                results.append(result)
    except KeyboardInterrupt:
        stopped = "interrupted"
    except (BrokenProcessPool, OSError, ValueError, KeyError) as error:
        stopped = f"stopped by {type(error).__name__}: {error}"
    if stopped:
        kept = f"the figures of the first {len(results)} of {number} photographs are kept"
        errors.print(escape(f"{stopped}; {kept if results else 'nothing was measured yet'}."))
    return results, bool(stopped)


def average(results: Sequence[Result]) -> report.Figures:
    """Means over the photographs: per method, a list over the budgets for every measure."""
    figures: report.Figures = {}
    for method in results[0]:
        rows = [result[method] for result in results]
        figures[method] = {
            name: [float(np.mean([row[i][name] for row in rows])) for i in range(len(BUDGETS))] for name in rows[0][0]
        }
    return figures


def provenance(packages: Iterable[str]) -> dict[str, Any]:
    """Machine, commit and versions, also of these packages."""
    root = Path(__file__).resolve().parents[1]
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=root, capture_output=True, text=True
    )
    found = info.collect()
    versions = {package: importlib.metadata.version(package) for package in sorted({"numpy", *packages})}
    return {
        "commit": described.stdout.strip() or "unknown",
        "machine": {"cpu": found["cpu"]["name"], "cores": found["cpu"]["cores"]},
        "versions": {**{name: text for name, text in found["versions"].items() if text}, **versions},
    }


def available(console: Console) -> list[Method]:
    """The methods that can run here; one line about each that cannot."""
    for method in METHODS:
        if method.missing():
            console.print(f"{method.title} is left out: {method.module} is missing (pip install {method.package}).")
    return [method for method in METHODS if not method.missing()]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.superpixels", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with ID.jpg and ID.npz (BSDS500)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    parser.add_argument("--images", type=int, help="quick look: only the first N photographs, and no gallery")
    options = parser.parse_args(arguments)
    console, errors = Console(), Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        paths = find_photographs(options.data)
    except ValueError as error:
        errors.print(f"[red]error:[/] {escape(str(error))}")
        return 2
    if options.images is not None:
        if options.images < 1:
            parser.error(f"--images: expected at least 1; found {options.images}")
        paths = paths[: options.images]

    methods = available(errors)
    results, stopped = collect(measure_all(paths, methods), len(paths), console, errors)
    if not results:
        return 1

    record = {
        **provenance(method.package for method in methods if method.package),
        "photographs": len(results),
        "budgets": list(BUDGETS),
        "titles": {method.name: method.title for method in methods},
        "figures": average(results),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "superpixels.json"
    path.write_text(json.dumps(rounded(record), indent=1) + "\n")
    path.with_suffix(".md").write_text(report.markdown(record))
    console.print(report.table(record), report.target_table(record))
    report.draw_curves(record, options.output / "superpixels_curves.png", errors)
    if not stopped and options.images is None:
        gallery.draw(methods, options.output, errors)
    console.print(f"Written to {options.output}: superpixels.json, .md and pictures.", soft_wrap=True)
    return 1 if stopped else 0


def rounded(value: Any) -> Any:
    """Four decimals are more than the figures mean."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped from outside is like Ctrl-C
    sys.exit(main())
