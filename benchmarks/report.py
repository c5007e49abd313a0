"""Tables, targets and a picture from a result file: `python -m benchmarks.report FILE.json [--compare OLD.json]`.

Without a file: all backends side by side, from every committed result, and the page docs/backends.md. With a folder:
the same, from the results in it, too.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from . import overview, targets
from .overview import first_shapes
from .results_file import Results, Row, load
from .sheet import LARGE_SPREAD, Sheet, markdown_table, milliseconds, percent, show
from .targets import MIB

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def mebibytes(memory: int | None) -> str:
    return "?" if memory is None else f"{memory / MIB:.3g}"


def other(row: Row) -> str:
    """A peer: its time over ours with the spread, and its memory."""
    median, low, high = row.ratio
    return f"{row.name} {median:.3g}x ({low:.3g}-{high:.3g}), {mebibytes(row.memory)} MiB"


def case_sheets(results: Results) -> list[Sheet]:
    """One table per operator: ours, shares of the ceilings, peak memory, and everybody else's time over ours."""
    columns = ("case", "threads", "ms (p20-p80)", "copy", "FMA", "peak MiB", "time of others over ours (p20-p80), peak")
    sheets: dict[str, Sheet] = {}
    for group in results.groups.values():
        sheet = sheets.setdefault(group.operator, Sheet(group.operator, columns, []))
        sheet.rows.append(
            (
                f"{group.direction} {'x'.join(map(str, group.shape))}",
                str(group.threads),
                milliseconds(group.ours),
                percent(group.copy_share),
                percent(group.fma_share),
                mebibytes(group.ours.memory),
                "; ".join(other(row) for row in sorted(group.others, key=lambda row: row.ratio[0])),
            )
        )
    return list(sheets.values())


def target_sheet(results: Results) -> Sheet:
    return Sheet("Targets, all threads", ("target", "to reach", "measured", ""), targets.rows(results))


def growth_sheet(results: Results) -> Sheet:
    rows = [
        (f"{side}", f"{time:.3g}", "?" if memory is None else f"{memory:.3g}")
        for side, time, memory in targets.growth(results)
    ]
    return Sheet("Tokenizer, soft leaves", ("side, px", "ns per pixel", "peak memory / input bytes"), rows)


def compare_sheet(new: Results, old: Results) -> Sheet:
    """Ours then and now. `beyond spread` where the ranges from 20th to 80th percentile do not meet."""
    rows = []
    for key, group in new.groups.items():
        before = old.groups.get(key)
        if before is None:
            continue
        a, b = before.ours, group.ours
        apart = a.p20 > b.p80 or b.p20 > a.p80
        change = "" if not apart else "faster" if b.median < a.median else "SLOWER"
        copy = before.rows["copy"].median / group.rows["copy"].median
        names = (group.case, str(group.threads), milliseconds(a), milliseconds(b))
        rows.append((*names, f"{a.median / b.median:.2f}x", f"{copy:.2f}x", change))
    columns = ("case", "threads", "before, ms", "now, ms", "speed-up", "copy ceiling's", "beyond spread")
    return Sheet(f"Compared with {old.path.name}", columns, rows)


def notes(results: Results, old: Results | None) -> list[str]:
    """What a reader must know before the figures."""
    lines = []
    rows = [row for group in results.groups.values() for row in group.rows.values()]
    loud = sum(row.spread > LARGE_SPREAD for row in rows)
    if loud > len(rows) / 10:
        lines.append(
            f"BUSY MACHINE: {loud} of {len(rows)} measurements have more than {LARGE_SPREAD:.0%} between their 20th "
            "and 80th percentile (marked !). Do not quote these figures; measure again on a calm machine."
        )
    lines += [f"Not measured: {line}" for line in results.missing]
    if not rows:
        lines.append("No case was completed.")
    if old is not None and old.document["machine_info"]["cpu"] != results.document["machine_info"]["cpu"]:
        lines.append("ANOTHER MACHINE in the file compared with: the speed-ups compare machines, too.")
    if old is not None and not set(old.groups) & set(results.groups):
        lines.append("No case is in both files.")
    return lines


def markdown(results: Results, sheets: list[Sheet], remarks: list[str], picture: Path | None) -> str:
    parts = [f"# Benchmark: {results.path.stem}", results.machine, *(f"**{line}**" for line in remarks)]
    if picture is not None:
        parts.append(f"![speed, ceilings and growth]({picture.name})")
    for sheet in sheets:
        parts.append(f"## {sheet.title}\n\n{markdown_table(sheet)}")
    return "\n\n".join(parts) + "\n"


def draw(results: Results, path: Path) -> None:
    """Others' time over ours, shares of the ceilings, and the tokenizer's growth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    groups = first_shapes(results)[::-1]
    figure = plt.figure(figsize=(13, 3 + 0.26 * len(groups)), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(3, 2, 2))
    ratios, shares = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[:, 1])
    places = range(len(groups))

    names = list(dict.fromkeys(row.name for group in groups for row in group.others))
    colors = plt.get_cmap("tab20")
    for number, name in enumerate(names):
        points = [(group.rows[name].ratio, place) for place, group in enumerate(groups) if name in group.rows]
        median, y = [ratio[0] for ratio, _ in points], [place for _, place in points]
        errors = [[r[0] - r[1] for r, _ in points], [r[2] - r[0] for r, _ in points]]
        marker = "s" if name == "reference" else "o" if number < 20 else "^"
        ratios.errorbar(median, y, xerr=errors, fmt=marker, ms=4, lw=1, color=colors(number % 20), label=name)
    ratios.axvline(1, color="black", lw=1)
    ratios.set(xscale="log", title=f"time over ours, {results.threads} threads (bars: p20-p80)")
    ratios.set_yticks(
        places, [f"{g.operator} {g.direction}\n{'x'.join(map(str, g.shape))}" for g in groups], fontsize=6
    )
    ratios.grid(axis="x", alpha=0.3)
    figure.legend(*ratios.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=6)

    shares.barh(places, [100 * group.copy_share for group in groups], color="lightsteelblue", label="copy")
    fma = [(100 * group.fma_share, place) for place, group in enumerate(groups) if group.fma_share is not None]
    shares.plot([share for share, _ in fma], [place for _, place in fma], "D", color="firebrick", ms=4, label="FMA")
    shares.axvline(100, color="black", lw=1)
    shares.set(title="share of the ceiling, %", yticks=[], ylim=ratios.get_ylim())
    shares.legend(fontsize=7)

    points = targets.growth(results)
    for row, (index, title) in enumerate(((1, "tokenizer: ns per pixel"), (2, "tokenizer: peak memory / input bytes"))):
        axes = figure.add_subplot(grid[row, 2])
        known = [(point[0], point[index]) for point in points if point[index] is not None]
        axes.plot([side for side, _ in known], [value for _, value in known], "o-", color="steelblue")
        axes.set(xscale="log", title=title, xlabel="side, px", ylim=(0, None))
        axes.set_xticks([side for side, _ in known], [str(side) for side, _ in known])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def drawn(draw: Callable[[], None], console: Console) -> bool:
    """Whether a picture could be drawn; where matplotlib is missing, the report says so and goes on."""
    try:
        draw()
    except ModuleNotFoundError as error:
        console.print(f"no picture: {error} (pip install matplotlib)", style="red")
        return False
    return True


def everything(console: Console, folders: list[Path]) -> None:
    """All backends side by side, on the screen and in the documentation."""
    files = overview.found(*folders)
    show(console, overview.sheet(files))
    for case, ratio in overview.slower(files):
        console.print(f"{case}: Triton takes {ratio:.2f} times as long as CUDA", style="bold red")
    picture = drawn(lambda: overview.draw(files, overview.PICTURE), console)
    overview.PAGE.write_text(overview.page(files, overview.PAGE.read_text()))
    console.print(f"Written: {overview.PAGE}" + (f", {overview.PICTURE}" if picture else ""))


@app.command()
def main(
    file: Annotated[
        Path | None,
        typer.Argument(help="JSON of `pytest benchmarks --benchmark-json FILE`, or a folder [all committed ones]."),
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="An earlier file to compare with.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the Markdown and the picture [that of FILE].")] = None,
) -> None:
    """Print tables of ratios, shares of the ceilings, memory and targets; write them as Markdown with a picture."""
    console = Console(soft_wrap=False)
    if file is None or file.is_dir():
        everything(console, [overview.RESULTS] if file is None else [overview.RESULTS, file])
        return
    try:
        results = load(file)
        old = None if compare is None else load(compare)
    except (OSError, ValueError) as error:
        print(f"report: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    sheets = [target_sheet(results), growth_sheet(results)]
    if old is not None:
        sheets.append(compare_sheet(results, old))
    sheets += case_sheets(results)
    lines = notes(results, old)

    console.print(escape(results.machine))
    for sheet in sheets:
        if sheet.rows:
            show(console, sheet)
    for line in lines:
        console.print(escape(line), style="bold red")

    folder = output or file.parent
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{file.stem}.png"
    picture = target if drawn(lambda: draw(results, target), console) else None
    (folder / f"{file.stem}.md").write_text(markdown(results, [s for s in sheets if s.rows], lines, picture))
    console.print(f"Written: {folder / file.stem}.md" + (f", {picture}" if picture else ""))


if __name__ == "__main__":
    app()
