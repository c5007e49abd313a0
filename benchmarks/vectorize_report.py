"""Comparisons, tables and curves of `benchmarks.vectorize`."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from .superpixel_report import row
from .vectorize_measures import Run, quality_at
from .vectorize_times import SEGMENTS

#: What emoji are to reach, dB.
TARGET = 40.0
#: Ours are drawn in strong colours, the others muted.
OURS_COLORS = ("#c2272d", "#7a4fa3", "#7fb2d9", "#e08a3c")
STYLES = {
    "presets": ("#777777", " ", "*"),
    "stacked_spline": ("#8c9aa8", "--", "^"),
    "stacked_polygon": ("#4f6f8f", "--", "s"),
    "stacked_pixel": ("#8fae8b", "--", "D"),
    "cutout_spline": ("#b9c4ce", ":", "^"),
    "cutout_polygon": ("#93a9bd", ":", "s"),
    "potrace": ("#cbb393", "-.", "^"),
    "potrace_polygon": ("#b08f6e", "-.", "s"),
}

Record = dict[str, Any]
Cells = list[list[str]]  # the first row is the titles


def sets(record: Record) -> list[str]:
    """Their names in their order."""
    return list(dict.fromkeys(picture["set"] for picture in record["pictures"]))


def of_set(record: Record, name: str) -> list[Record]:
    return [picture for picture in record["pictures"] if picture["set"] == name]


def ours(record: Record) -> list[str]:
    return [name for name, method in record["methods"].items() if method["ours"]]


# --- at equal bytes ---------------------------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """Runs of a peer beside a curve of ours."""

    gains: list[float]
    """Our PSNR less theirs at their bytes, dB, where our curve has that size."""
    outside: int
    """Runs that are smaller or larger than all of ours."""
    smaller: int
    """Of these the larger ones beside which we have a run of fewer bytes and no less PSNR."""

    def __str__(self) -> str:
        """Comparisons won of all, mean and least gain; what could not be compared."""
        text = "-"
        if self.gains:
            won = sum(gain > 0 for gain in self.gains)
            text = f"{won}/{len(self.gains)}, {np.mean(self.gains):+.2f} ({min(self.gains):+.2f})"
        return f"{text}; {self.outside} outside, {self.smaller} better" if self.outside else text


def compare(curves: Iterable[tuple[Sequence[Run], Run]]) -> Comparison:
    """Pairs of a curve of ours and a run of a peer, of one picture each."""
    gains, outside, smaller = [], 0, 0
    for curve, run in curves:
        size, quality, *_ = zip(*((of[0], of[3]) for of in curve), strict=True)
        here = quality_at(run[0], size, quality)
        if here is None:
            outside += 1
            smaller += any(a <= run[0] and b >= run[3] for a, b in zip(size, quality, strict=True))
        else:
            gains.append(here - run[3])
    return Comparison(gains, outside, smaller)


def comparisons(record: Record, mine: str) -> Cells:
    """One of our curves beside every run of every peer, and beside all runs of vtracer and of potrace."""
    names = sets(record)
    cells = [["", "run", *names]]
    for title, chosen in _groups(record):
        made = []
        for name in names:
            pairs = [
                (picture["runs"][mine], picture["runs"][method][place])
                for picture in of_set(record, name)
                for method, place in chosen
            ]
            made.append(str(compare(pairs)))
        cells.append([*title, *made])
    return cells


def _groups(record: Record) -> Iterator[tuple[tuple[str, str], list[tuple[str, int]]]]:
    """Title and run with the runs that are meant: all of a program, then each."""
    found = {name: method for name, method in record["methods"].items() if not method["ours"]}
    runs = {(name, place): label for name, method in found.items() for place, label in enumerate(method["runs"])}
    for program in ("vtracer", "potrace"):
        every = [key for key in runs if record["methods"][key[0]]["title"].startswith(program)]
        if every:
            yield (f"**{program}**", "all"), every
    for key, label in runs.items():
        yield (record["methods"][key[0]]["title"], label), [key]


# --- runs, emoji, times -----------------------------------------------------------------------------------------------


def runs(record: Record, name: str) -> Cells:
    """Every run on a set: means over its pictures."""
    cells = [["", "run", "bytes", "paths", "vertices", "PSNR", "SSIM", "ms"]]
    for method, of in record["methods"].items():
        for place, label in enumerate(of["runs"]):
            means = np.mean([picture["runs"][method][place] for picture in of_set(record, name)], axis=0)
            cells.append([of["title"], label, *(f"{x:.0f}" for x in means[:3]), f"{means[3]:.2f}", f"{means[4]:.3f}"])
            cells[-1].append(_milliseconds(record, name, method, label))
    return cells


def _milliseconds(record: Record, name: str, method: str, label: str) -> str:
    """Median over the timed pictures of a set, on all threads."""
    timed = record["times"].get(max(record["times"], key=int, default=""), {})
    found = [timed[p["name"]][method][label] for p in of_set(record, name) if method in timed.get(p["name"], {})]
    return f"{np.median(found):.1f}" if found else "-"


def emoji(record: Record) -> Cells:
    """Bytes at which `TARGET` is reached, over those of the original: ours at the least budget, of others' runs."""
    cells = [["", f"reach {TARGET:g} dB", "within twice the original", "median of bytes over the original's"]]
    drawn = [picture for picture in record["pictures"] if "original" in picture]
    for name, method in record["methods"].items():
        ratios = []
        for picture in drawn:
            reached = [run[0] for run in picture["runs"][name] if run[3] >= TARGET]
            size = picture["reached"][name] if method["ours"] else min(reached, default=None)
            ratios.append(float("inf") if size is None else size / picture["original"])
        share = [f"{100 * np.mean(np.less_equal(ratios, most)):.0f} %" for most in (np.finfo(float).max, 2)]
        cells.append([method["title"], *share, f"{np.median(ratios):.2f}".replace("inf", "not reached")])
    return cells if drawn else []


def times(record: Record, threads: str) -> Cells:
    """Ours beside vtracer's presets, for every timed picture."""
    mine = ours(record)[0]
    cells = [["", "size", "hierarchy", "cut", "to_svg", "trace, ns/pixel"]]
    presets = record["methods"].get("presets", {"runs": []})["runs"]
    cells[0] += [f"{preset}: vtracer, ours, ratio" for preset in presets]
    for picture in record["pictures"]:
        of = record["times"][threads].get(picture["name"])
        if of is None:
            continue
        height, width = picture["size"]
        stages = of["stages"]
        line = [
            picture["name"],
            f"{width} x {height}",
            *(f"{stages[name]:.2f}" for name in ("hierarchy", "cut", "svg")),
        ]
        line.append(f"{1e6 * stages['trace'] / (height * width):.1f}")
        for place, preset in enumerate(presets):
            label = _as_good(record, picture, mine, picture["runs"]["presets"][place][3])
            if label is None:
                line.append("not as good")
                continue
            theirs, here = of["presets"][preset], of[mine][label]
            line.append(f"{theirs:.0f}, {here:.1f} ({label}), **{theirs / here:.1f}**")
        cells.append(line)
    return cells


def _as_good(record: Record, picture: Record, mine: str, quality: float) -> str | None:
    """Our first run that is at least as good."""
    labels = record["methods"][mine]["runs"]
    return next((label for label, run in zip(labels, picture["runs"][mine], strict=True) if run[3] >= quality), None)


# --- page, terminal, picture ------------------------------------------------------------------------------------------


def tables(record: Record) -> Iterator[tuple[str, str, Cells]]:
    """Title, explanation and cells of every table."""
    for mine in ours(record):
        explained = (
            "Our PSNR less theirs at the bytes of their run, from our own curve of that picture, linear in the"
            " logarithm of the bytes: comparisons won of all, mean (least) in dB. Never extrapolated: runs *outside*"
            " are smaller or larger than all of ours; *better* are those beside which we have one of fewer bytes and"
            " no less PSNR."
        )
        yield f"At equal bytes: {record['methods'][mine]['title']}", explained, comparisons(record, mine)
    found = emoji(record)
    if found:
        explained = (
            "Share of the emoji, and bytes over those of the file from which the picture was rendered. Ours at the"
            " least number of segments that reaches it, the others at the smallest of their runs that does."
        )
        yield f"Emoji at {TARGET:g} dB", explained, found
    for threads in record["times"]:
        explained = (
            f"Milliseconds, the best of all rounds. Ours step by step at {SEGMENTS} segments; then vtracer's presets "
            "beside our cut and to_svg, given the hierarchy, with the least of our budgets that is as good (PSNR)."
        )
        yield f"Times on {threads} thread{'s' * (threads != '1')}", explained, times(record, threads)
    for name in sets(record):
        explained = (
            f"Means over {len(of_set(record, name))} pictures; ms are the median of those that were timed. Runs of"
            " vtracer are filter_speckle / layer_difference. Ours are timed without the hierarchy, potrace with a"
            " process per layer."
        )
        yield name, explained, runs(record, name)


def heading(record: Record) -> str:
    """Where the figures come from."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items() if name != "platform")
    counts = ", ".join(f"{len(of_set(record, name))} {name}" for name in sets(record))
    machine = record["machine"]
    return f"Pictures: {counts}; commit {record['commit']}; {versions}; {machine['cpu']}, {machine['cores']} cores"


def markdown(record: Record) -> str:
    """The tables as a page."""
    lines = [
        "# Raster to vector",
        "",
        f"By `python -m benchmarks.vectorize`. {heading(record)}.",
        "",
        "Photographs of at most 512 px, emoji of 512 px. PSNR in sRGB and SSIM of the grey picture (Gaussian window),",
        "both of the picture that resvg renders over white at the picture's size. Method: docs/vectorize.md.",
    ]
    for title, explained, (first, *others) in tables(record):
        lines += ["", f"## {title}", "", explained, "", row(first), row(["---", *["---:"] * (len(first) - 1)])]
        lines += [row(cells) for cells in others]
    return "\n".join(lines) + "\n"


def show(record: Record, console: Console) -> None:
    """The tables on the terminal."""
    for title, _, (first, *others) in tables(record):
        made = Table(*first, title=title, box=SIMPLE, padding=(0, 1, 0, 0))
        for cells in others:
            made.add_row(*(cell.replace("**", "") for cell in cells))
        console.print(made)


def draw(record: Record, path: Path, errors: Console) -> None:
    """PSNR and SSIM over bytes, means over each set (of the bytes the geometric mean)."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        errors.print("The curves are left out: matplotlib is missing (pip install matplotlib).")
        return
    names = sets(record)
    styles = STYLES | {
        name: (OURS_COLORS[place % len(OURS_COLORS)], "-", "o") for place, name in enumerate(ours(record))
    }
    figure = Figure(figsize=(1 + 4.5 * len(names), 8), layout="constrained")
    grid = figure.subplots(2, len(names), squeeze=False, sharex="col")
    for column, name in enumerate(names):
        for axes, place, measure in zip(grid[:, column], (3, 4), ("PSNR (dB)", "SSIM"), strict=True):
            for method in reversed(record["methods"]):
                points = np.array([picture["runs"][method] for picture in of_set(record, name)])  # [images,runs,5]
                color, line, marker = styles[method]
                sizes = np.exp(np.log(points[:, :, 0]).mean(0))
                axes.plot(
                    sizes,
                    points[:, :, place].mean(0),
                    line,
                    color=color,
                    marker=marker,
                    ms=9 if marker == "*" else 4,
                    lw=2.2 if record["methods"][method]["ours"] else 1.3,
                    label=record["methods"][method]["title"],
                )
            axes.set_xscale("log")
            axes.set_title(f"{name}: {measure}", fontsize=10, loc="left")
            axes.grid(color="#eeeeee")
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8, color="#888888")
        axes.set_xlabel("bytes", fontsize=9)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
