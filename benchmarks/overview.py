"""All backends side by side, from every result of the suite: a table, a picture, and a page of the documentation."""

from pathlib import Path

from .results_file import Group, Results, Row, load
from .sheet import Sheet, markdown_table, milliseconds, percent

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE, PICTURE = ROOT / "docs" / "backends.md", ROOT / "docs" / "images" / "backends.png"
COMPILED = "compiled reference"
#: Columns, and the implementation in each on a CPU and on a GPU.
COLUMNS = {
    "reference": ("reference", "reference"),
    "torch.compile": (COMPILED, COMPILED),
    "CPU": ("native", None),
    "Triton": (None, "triton"),
    "CUDA": (None, "native"),
}
#: Triton's time over CUDA's from which a case has to be explained on the page.
SLOW = 1.5
MARKS = "<!-- made by `python -m benchmarks.report` -->"


def found(*folders: Path) -> list[Results]:
    """The results of the suite in some folders: first those of the CPU, the newest first."""
    files = []
    for path in sorted({path.resolve() for folder in folders for path in folder.glob("*.json")}):
        try:
            files.append(load(path))
        except ValueError:
            continue  # of another benchmark
    newest = sorted(files, key=lambda results: results.document["datetime"], reverse=True)
    return sorted((results for results in newest if results.groups), key=lambda results: results.device != "cpu")


def first_shapes(results: Results) -> list[Group]:
    """Of each operator and direction its first shape, on all threads."""
    groups: dict[tuple[str, str], Group] = {}
    for group in results.groups.values():
        if group.threads == results.threads:
            groups.setdefault((group.operator, group.direction), group)
    return list(groups.values())


def cases(files: list[Results]) -> list[tuple[Results, Group, dict[str, Row]]]:
    """Of each operator, direction and device what one file has, the first with it; a lone reference is left out."""
    known: dict[tuple[str, str, str], tuple[Results, Group, dict[str, Row]]] = {}
    for results in files:
        for group in first_shapes(results):
            rows = rows_of(results, group)
            if set(rows) - {"reference"}:
                known.setdefault((results.device, group.operator, group.direction), (results, group, rows))
    return list(known.values())


def rows_of(results: Results, group: Group) -> dict[str, Row]:
    """What was measured of a case, by column."""
    on_gpu = results.device != "cpu"
    names = {column: name[on_gpu] for column, name in COLUMNS.items()}
    return {column: group.rows[name] for column, name in names.items() if name is not None and name in group.rows}


def _cell(group: Group, row: Row | None) -> str:
    return "" if row is None else f"{milliseconds(row)}, {percent(group.share(row))}"


def sheet(files: list[Results]) -> Sheet:
    """A line per operator, direction and device, all from the file that it names."""
    lines = []
    for results, group, rows in cases(files):
        case, shape = f"{group.operator} {group.direction}", "x".join(map(str, group.shape))
        cells = (_cell(group, rows.get(column)) for column in COLUMNS)
        lines.append((case, shape, results.device, results.path.stem, *cells))
    columns = ("operator", "shape", "device", "file", *COLUMNS)
    return Sheet("ms (p20-p80), share of the copy ceiling", columns, sorted(lines, key=lambda line: line[0]))


def slower(files: list[Results]) -> list[tuple[str, float]]:
    """The cases in which Triton takes more than 1.5 times as long as CUDA, with the ratio."""
    ratios = {
        group.case: rows["Triton"].median / rows["CUDA"].median
        for _, group, rows in cases(files)
        if "Triton" in rows and "CUDA" in rows
    }
    return [(case, ratio) for case, ratio in ratios.items() if ratio > SLOW]


def draw(files: list[Results], path: Path) -> None:
    """Of each operator and device, every backend's time, and the share of the ceiling that it reaches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    known = cases(files)[::-1]
    figure, (times, shares) = plt.subplots(1, 2, figsize=(12, 2 + 0.2 * len(known)), layout="constrained", sharey=True)
    for number, column in enumerate(COLUMNS):
        points = [(rows[column], group, place) for place, (_, group, rows) in enumerate(known) if column in rows]
        places = [place for *_, place in points]
        style = {"marker": "so^Dv"[number], "ls": "", "ms": 5, "color": f"C{number}", "label": column}
        times.plot([1e3 * row.median for row, *_ in points], places, **style)
        shares.plot([100 * group.share(row) for row, group, _ in points], places, **style)
    names = [
        f"{group.operator} {group.direction}, {'x'.join(map(str, group.shape))} ({results.path.stem})"
        for results, group, _ in known
    ]
    times.set_yticks(range(len(known)), names, fontsize=6)
    times.set(xscale="log", title="ms per call", ylim=(-1, len(known)))
    shares.set(xscale="log", title="share of the copy ceiling, %")
    for axes in (times, shares):
        axes.grid(alpha=0.3)
    figure.legend(*times.get_legend_handles_labels(), loc="outside lower center", ncols=len(COLUMNS))
    figure.savefig(path, dpi=100)
    plt.close(figure)


def page(files: list[Results], text: str) -> str:
    """The page with what lies between its two marks made anew."""
    before, _, rest = text.partition(MARKS)
    _, _, after = rest.partition(MARKS)
    parts = [MARKS, *(f"* `{results.path.name}`: {results.machine}" for results in files)]
    parts[1:] = ["\n".join(parts[1:]), f"![time and share of the ceiling](images/{PICTURE.name})"]
    if not any(results.device != "cpu" for results in files):
        parts.append("No result of a GPU has been committed yet: the columns Triton and CUDA are empty.")
    parts += [markdown_table(sheet(files)), MARKS]
    return before + "\n\n".join(parts) + after
