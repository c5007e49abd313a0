"""The command `dhvt svg`: pictures to SVG images."""

import math
import time
import warnings
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from torch import Tensor

from .cli_jobs import Job, Report, check_folder, find_jobs, print_summary, printable
from .files import write_text
from .imaging import load_image
from .svg_search import Vectorized, render_svg, search_svg
from .vectorize import to_svg, vector_hierarchy

#: Segments of a picture where neither their number nor a size or quality is asked for.
MAX_TOKENS = 512


class _Line(NamedTuple):
    """A line of the summary."""

    job: Job
    width: int
    height: int
    segments: int
    size: int
    milliseconds: float


def svg(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Pictures, or folders that are searched for pictures.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    max_tokens: Annotated[
        int | None, typer.Option(help=f"Segments of each picture; {MAX_TOKENS} by default.", min=1)
    ] = None,
    size: Annotated[
        int | None, typer.Option("--bytes", help="As many segments as a file of so many bytes has room for.", min=1)
    ] = None,
    psnr: Annotated[float | None, typer.Option(help="As few segments as give so many dB (needs resvg-py).")] = None,
    tolerance: Annotated[float, typer.Option(help="How far outlines may be off in pixels; 0: exact.", min=0)] = 0.5,
    curves: Annotated[
        bool, typer.Option("--curves/--lines", help="Curves between pixels, or polygons on them.")
    ] = True,
    gradients: Annotated[bool, typer.Option("--gradients", help="Gradients where they are worth their bytes.")] = False,
    precision: Annotated[int, typer.Option(help="Decimals of the coordinates of curves.", min=0, max=6)] = 1,
) -> None:
    """Write pictures as SVG.

    For each NAME.jpg the output folder receives NAME.svg, of the picture's size: one path per segment, layer over
    layer. Transparency is kept.

    A file that cannot be read is reported and left out; the exit code is then 1.
    """
    if sum(wanted is not None for wanted in (max_tokens, size, psnr)) > 1:
        raise typer.BadParameter("expected one of --max-tokens, --bytes and --psnr")
    for option, value in (("--psnr", psnr), ("--tolerance", tolerance)):
        if value is not None and not math.isfinite(value):
            raise typer.BadParameter(f"{option}: expected a finite number; found {value}")
    if psnr is not None:
        try:
            render_svg('<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>')
        except ModuleNotFoundError as error:
            raise typer.BadParameter(f"--psnr: {error}") from error
    check_folder(output)
    outlines = {
        "tolerance": tolerance,
        "curves": curves and tolerance > 0,
        "gradients": gradients,
        "precision": precision,
    }
    warnings.filterwarnings("ignore", module=r"PIL\.")
    report = Report()
    lines = []
    jobs = find_jobs(images, output, report, lambda target: [target.with_name(target.name + ".svg")])
    for job in track(
        jobs, "vectorizing", console=report.console, transient=True, disable=not report.console.is_terminal
    ):
        try:
            lines.append(_vectorize(job, max_tokens, size, psnr, outlines))
        except (MemoryError, OSError, RuntimeError, ValueError) as error:
            report.failed(job.path, error)
    if lines:
        _summary(lines, output)
    if report.failures:
        raise typer.Exit(1)


def _vectorize(
    job: Job, max_tokens: int | None, size: int | None, psnr: float | None, outlines: dict[str, Any]
) -> _Line:
    picture = load_image(job.path, alpha=True)
    start = time.perf_counter()
    result = _result(picture, max_tokens, size, psnr, outlines)
    seconds = time.perf_counter() - start
    job.target.parent.mkdir(parents=True, exist_ok=True)
    write_text(job.target.with_name(job.target.name + ".svg"), result.svg)
    height, width = picture.shape[1:]
    return _Line(job, width, height, int(result.partition.counts[0]), len(result.svg), 1e3 * seconds)


def _result(
    picture: Tensor, max_tokens: int | None, size: int | None, psnr: float | None, outlines: dict[str, Any]
) -> Vectorized:
    hierarchy = vector_hierarchy(picture)
    if size is not None or psnr is not None:
        return search_svg(picture, hierarchy, size=size, psnr=psnr, **outlines)
    partition = hierarchy.cut(max_tokens=max_tokens or MAX_TOKENS)
    return Vectorized(to_svg(picture, partition, **outlines), partition)


def _summary(lines: list[_Line], output: Path) -> None:
    table = Table(show_footer=True)
    table.add_column("picture", f"{len(lines)} in {escape(printable(output))}", overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("segments", f"{sum(line.segments for line in lines):,}", justify="right")
    table.add_column("bytes", f"{sum(line.size for line in lines):,}", justify="right")
    table.add_column("ms", f"{sum(line.milliseconds for line in lines) / len(lines):.0f} mean", justify="right")
    rows = [
        (
            escape(printable(line.job.target.relative_to(output))),
            f"{line.width} x {line.height}",
            f"{line.segments:,}",
            f"{line.size:,}",
            f"{line.milliseconds:.0f}",
        )
        for line in lines
    ]
    print_summary(table, rows)
