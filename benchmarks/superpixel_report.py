"""Tables and curves of `benchmarks.superpixels`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from .superpixel_measures import MEASURES

#: Per method, for every measure, `segments` and `pieces`: one mean per budget.
Figures = dict[str, dict[str, list[float]]]

#: What the project promises, at 50, 100, 200 and 400 segments. UE must not be more, the others not less.
TARGETS = {
    "default": {
        "ASA": (90.5, 93.3, 95.0, 96.2),
        "UE": (18.3, 13.0, 9.8, 7.5),
        "BR": (70.5, 79.5, 86.7, 92.0),
        "EV": (75.3, 80.1, 83.9, 86.9),
        "PSNR": (21.25, 22.25, 23.30, 24.30),
    },
    "pixels": {
        "ASA": (90.5, 93.3, 95.1, 96.2),
        "PSNR": (21.30, 22.35, 23.35, 24.35),
    },
}

COLUMNS = ("segments", "pieces", *MEASURES)

#: Ours in strong colours, the others muted; in the order in which lines are drawn.
STYLES = {
    "grid": ("#bbbbbb", ":", "s"),
    "slic": ("#8c9aa8", "--", "^"),
    "seeds": ("#b08f6e", "--", "v"),
    "felzenszwalb": ("#8fae8b", "--", "D"),
    "leaves": ("#7fb2d9", "-", "o"),
    "published": ("#e08a3c", "-", "o"),
    "pixels": ("#7a4fa3", "-", "o"),
    "default": ("#c2272d", "-", "o"),
}


class Verdict(NamedTuple):
    """One figure beside what it must reach."""

    method: str
    measure: str
    budget: int
    figure: float
    target: float
    reached: bool


def at_most(measure: str) -> bool:
    """Less is better."""
    return measure == "UE"


def verdicts(figures: Figures, budgets: list[int]) -> Iterator[Verdict]:
    """Every target whose method was measured; figures are compared as they are, not as they are printed."""
    for method, measures in TARGETS.items():
        for measure, targets in measures.items():
            if method not in figures:
                continue
            for budget, figure, target in zip(budgets, figures[method][measure], targets, strict=True):
                reached = figure <= target if at_most(measure) else figure >= target
                yield Verdict(method, measure, budget, figure, target, reached)


def rows(record: dict[str, Any], place: int) -> Iterator[tuple[str, list[str], list[bool]]]:
    """The lines of one budget: title, cells of `COLUMNS`, and which cells are the best of theirs."""
    figures = record["figures"]
    best = {
        measure: (min if at_most(measure) else max)(of[measure][place] for of in figures.values())
        for measure in MEASURES
    }
    for method, of in figures.items():
        cells = [f"{of[name][place]:.{0 if name in ('segments', 'pieces') else 2}f}" for name in COLUMNS]
        yield record["titles"][method], cells, [of[name][place] == best.get(name) for name in COLUMNS]


def heading(record: dict[str, Any]) -> str:
    """Where the figures come from."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items() if name != "platform")
    return f"{record['photographs']} photographs; commit {record['commit']}; {versions}; {record['machine']['cpu']}"


def table(record: dict[str, Any]) -> Table:
    """All figures, for the terminal."""
    caption = "pieces: as many as segments if all are 4-connected; bold: the best"
    made = Table(title=f"{record['photographs']} photographs", caption=caption, box=SIMPLE, padding=(0, 1, 0, 0))
    made.add_column("")
    for title in COLUMNS:
        made.add_column(title, justify="right")
    for place, budget in enumerate(record["budgets"]):
        made.add_row(f"[bold]{budget} segments[/]")
        for title, cells, marks in rows(record, place):
            shown = [f"[bold]{cell}[/]" if mark else cell for cell, mark in zip(cells, marks, strict=True)]
            made.add_row(title, *shown)
        made.add_section()
    return made


def target_table(record: dict[str, Any]) -> Table:
    """What had to be reached, for the terminal."""
    made = Table(title="To reach", caption=summary(record), box=SIMPLE, padding=(0, 1, 0, 0))
    for title in ("", "", *map(str, record["budgets"])):
        made.add_column(title)
    for title, measure, of in _target_lines(record):
        colors = ["green" if one.reached else "bold red" for one in of]
        cells = [f"[{color}]{_told(one)}[/]" for color, one in zip(colors, of, strict=True)]
        made.add_row(title, measure, *cells)
    return made


def summary(record: dict[str, Any]) -> str:
    found = list(verdicts(record["figures"], record["budgets"]))
    return f"{sum(one.reached for one in found)} of {len(found)} figures reached"


def markdown(record: dict[str, Any]) -> str:
    """The same as a page."""
    lines = [
        "# Quality of segments",
        "",
        f"By `python -m benchmarks.superpixels`. {heading(record)}.",
        "",
        "Mean over the human annotators of a photograph, then over the photographs. ASA, UE, BR, BP and EV in per",
        "cent, PSNR in dB; UE should be small, the others large. *Segments* is the mean number that was really made,",
        "*pieces* that of their 4-connected parts: as many if all segments are connected. Bold: the best of a column.",
    ]
    for place, budget in enumerate(record["budgets"]):
        lines += ["", f"## {budget} segments", "", row(["method", *COLUMNS])]
        lines.append(row(["---", *["---:"] * len(COLUMNS)]))
        for title, cells, marks in rows(record, place):
            lines.append(row([title, *(f"**{c}**" if mark else c for c, mark in zip(cells, marks, strict=True))]))
    lines += ["", "## To reach", "", f"{summary(record)}.", ""]
    lines += [row(["method", "measure", *map(str, record["budgets"])]), row(["---"] * (2 + len(record["budgets"])))]
    lines += [row([title, measure, *map(_told, of)]) for title, measure, of in _target_lines(record)]
    return "\n".join(lines) + "\n"


def _target_lines(record: dict[str, Any]) -> Iterator[tuple[str, str, list[Verdict]]]:
    found = list(verdicts(record["figures"], record["budgets"]))
    for method, measure in dict.fromkeys((one.method, one.measure) for one in found):
        of = [one for one in found if (one.method, one.measure) == (method, measure)]
        yield record["titles"][method], f"{measure} {'<=' if at_most(measure) else '>='}", of


def _told(one: Verdict) -> str:
    return f"{one.figure:.2f} / {one.target:g} {'reached' if one.reached else 'NOT reached'}"


def row(cells: list[str]) -> str:
    """Of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def draw_curves(record: dict[str, Any], path: Path, errors: Console) -> None:
    """Every measure over the number of segments that were really made."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullLocator
    except ModuleNotFoundError:
        errors.print("The curves are left out: matplotlib is missing (pip install matplotlib).")
        return
    figures, titles = record["figures"], record["titles"]
    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, measure in zip(figure.subplots(2, 3).flat, MEASURES, strict=True):
        for order, (method, (color, line, marker)) in enumerate(STYLES.items()):
            if method in figures:
                points = figures[method]["segments"], figures[method][measure]
                width = 2 if method == "default" else 1.4
                axes.plot(*points, line, c=color, marker=marker, ms=4, lw=width, zorder=2 + order, label=titles[method])
        if measure in ("ASA", "UE") and set(figures) > {"felzenszwalb"}:
            # Its few large segments would press all other curves together.
            seen = [value for method, of in figures.items() if method != "felzenszwalb" for value in of[measure]]
            margin = 0.05 * (max(seen) - min(seen))
            axes.set_ylim(min(seen) - margin, max(seen) + margin)
        axes.set_xscale("log")
        axes.set_xticks(record["budgets"], [str(budget) for budget in record["budgets"]])
        axes.xaxis.set_minor_locator(NullLocator())
        better = "less is better" if at_most(measure) else "more is better"
        axes.set_title(f"{measure} ({'dB' if measure == 'PSNR' else '%'}), {better}", fontsize=10, loc="left")
        axes.grid(color="#eeeeee")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, color="#888888")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(f"Segments on {record['photographs']} photographs, over their mean number", fontsize=12)
    figure.savefig(path, dpi=110, metadata={"Software": None})
