"""Boundary strength on real photographs, beside what humans drew: F-measure of `Hierarchy.saliency()` maps.

    python -m benchmarks.boundaries --data FOLDER

Protocol: every map is thresholded at the same strengths and thinned; its pixels are matched with those of each human
segmentation, one to one. Deterministic: every run gives the same figures.
"""

import argparse
import importlib.util
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dhvt_kernels import Tokenizer

from .boundary_measures import Counts, best_level, compare, f_measure, summary
from .superpixel_methods import tensor
from .superpixel_report import heading, row
from .superpixels import collect, find_photographs, in_workers, load_truth, provenance, rounded

#: From nearly every human boundary found to nearly no map left (1 is the default cut), evenly in the logarithm.
LEVELS = 2.0 ** (np.arange(2, 21) / 2)
COLUMNS = ("ODS", "OIS", "AP", "recall", "precision", "strength")
HALVES = {"all": "all photographs", "first": "first half, to choose", "second": "second half, to confirm"}
#: For orientation only: other photographs, and a detector that learned from human boundaries.
PUBLISHED = ("gPb-owt-ucm (published, TEST split)", {"ODS": 0.726, "OIS": 0.760})


class Recipe(NamedTuple):
    """A row of the tables."""

    name: str
    title: str
    options: dict[str, Any]

    def saliency(self, images: torch.Tensor) -> torch.Tensor:
        return Tokenizer(**self.options).hierarchy(images).saliency()


RECIPES = (
    Recipe("default", "default recipe", {}),
    Recipe("soft_ward_length", "ward_length", {"distance": "ward_length"}),
    Recipe("contrast", "pixels, contrast", {"leaves": "pixels"}),
    Recipe("feature", "pixels, feature", {"leaves": "pixels", "distance": "feature"}),
    Recipe("ward", "pixels, ward", {"leaves": "pixels", "distance": "ward"}),
    Recipe("ward_length", "pixels, ward_length", {"leaves": "pixels", "distance": "ward_length"}),
)


def measure(path: Path) -> dict[str, Counts]:
    """Counts `[levels,4]` of each recipe on one photograph."""
    truth = load_truth(path)
    images, humans = tensor(truth.image), np.stack(truth.humans)
    return {recipe.name: compare(recipe.saliency(images)[0].numpy(), humans, LEVELS) for recipe in RECIPES}


def halves(results: Sequence[dict[str, Counts]]) -> dict[str, dict[str, dict[str, float]]]:
    """The figures of each recipe on all photographs, and on the first and second half of them by name."""
    middle = (len(results) + 1) // 2
    parts = {"all": results, "first": results[:middle], "second": results[middle:]}
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for part, of in parts.items():
        for name in results[0] if of else ():
            counts = np.stack([result[name] for result in of])
            found = summary(counts) | {"strength": float(LEVELS[best_level(counts)])}
            if part == "second":
                level = best_level(np.stack([result[name] for result in parts["first"]]))
                found["confirmed"] = float(f_measure(counts.sum(0)[level]))
            figures.setdefault(part, {})[name] = found
    return figures


def rows(record: dict[str, Any], part: str) -> list[list[str]]:
    """The table of all photographs or of a half: titles and cells."""
    figures = record["figures"][part]
    measures = [*COLUMNS, *(["confirmed"] if part == "second" else [])]
    lines = [["", *measures]]
    for name, of in figures.items():
        lines.append([record["titles"][name], *(f"{of[m]:.{1 if m == 'strength' else 3}f}" for m in measures)])
    if part == "all":
        title, published = PUBLISHED
        lines.append([title, *(f"{published[m]:.3f}" if m in published else "-" for m in measures)])
    return lines


def verdict(record: dict[str, Any]) -> str:
    """The best recipe of the first half, and what becomes of it."""
    figures, titles = record["figures"], record["titles"]
    chosen, best = (max(figures[part], key=lambda name: figures[part][name]["ODS"]) for part in ("first", "second"))
    confirmed = "the best there, too" if chosen == best else f"the best there is: {titles[best]}"
    return f"Best ODS on the first half: {titles[chosen]}. On the second half: {confirmed}."


def markdown(record: dict[str, Any]) -> str:
    """The tables as a page."""
    lines = [
        "# Boundary strength",
        "",
        f"By `python -m benchmarks.boundaries`. {heading(record)}.",
        "",
        f"`Hierarchy.saliency()` (bic, default noise) above {len(record['levels'])} strengths from "
        f"{record['levels'][0]:g} to {record['levels'][-1]:g}, beside every",
        "human segmentation (method: docs/performance.md). ODS: F-measure at the best strength for all",
        "photographs, with its recall, precision and strength; OIS: at the best strength for each; AP: mean precision",
        "over the recall, 0 where no strength reaches it. *Confirmed*: F-measure of the second half at the strength",
        "that is best on the first. The published figures are those of the 200 photographs of the TEST split, by a",
        "detector that was trained on human boundaries: for orientation only.",
    ]
    for part in record["figures"]:
        of = rows(record, part)
        lines += ["", f"## {HALVES[part].capitalize()}", "", row(of[0]), row(["---", *["---:"] * (len(of[0]) - 1)])]
        lines += [row(cells) for cells in of[1:]]
    if "second" in record["figures"]:
        lines += ["", verdict(record)]
    return "\n".join(lines) + "\n"


def show(record: dict[str, Any], console: Console) -> None:
    """The tables on the terminal."""
    for part in record["figures"]:
        first, *others = rows(record, part)
        table = Table(*first, title=HALVES[part])
        for cells in others:
            table.add_row(*cells)
        console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boundaries", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with ID.jpg and ID.npz (BSDS500)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    parser.add_argument("--images", type=int, help="quick look: only the first N photographs")
    options = parser.parse_args(arguments)
    console, errors = Console(), Console(stderr=True, soft_wrap=True, highlight=False)
    if importlib.util.find_spec("skimage") is None:
        errors.print("[red]error:[/] scikit-image is missing (pip install scikit-image).")
        return 2
    try:
        paths = find_photographs(options.data)
    except ValueError as error:
        errors.print(f"[red]error:[/] {escape(str(error))}")
        return 2
    if options.images is not None:
        if options.images < 1:
            parser.error(f"--images: expected at least 1; found {options.images}")
        paths = paths[: options.images]

    results, stopped = collect(in_workers(measure, paths), len(paths), console, errors)
    if not results:
        return 1
    record = {
        **provenance(("scikit-image", "scipy")),
        "photographs": len(results),
        "levels": LEVELS.tolist(),
        "titles": {recipe.name: recipe.title for recipe in RECIPES},
        "figures": halves(results),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "boundaries.json"
    path.write_text(json.dumps(rounded(record), indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(record))
    show(record, console)
    console.print(f"Written to {options.output}: boundaries.json and .md.", soft_wrap=True)
    return 1 if stopped else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped from outside is like Ctrl-C
    sys.exit(main())
