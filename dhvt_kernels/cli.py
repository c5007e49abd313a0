"""The command `dhvt`: tokenize pictures from the shell, and say what the installation can do."""

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from safetensors.torch import save
from torch import Tensor

from . import __version__, info, position_histogram, token_patches
from .cli_jobs import Job, Report, check_folder, find_jobs, print_summary, printable
from .cli_options import build_tokenizer, tokenizer_options
from .cli_svg import svg
from .files import write_text
from .hierarchy import Hierarchy
from .imaging import load_image, mean_colors, overlay, saliency_picture, save_image
from .partition import Partition
from .tokenizer import Tokenizer
from .vectorize import to_svg
from .viewer import MAX_PIXELS, to_html

#: A batch has at most this many pixels; a larger picture is a batch of its own.
BATCH_PIXELS = 1 << 24
#: Patches and position histograms are left out of a picture's file when they would have more samples than this:
#: 65,536 tokens with patches of 16 x 16, about 130 MB.
PATCH_SAMPLES = 1 << 24

app = typer.Typer(
    help="Differentiable hierarchical visual tokenization: pictures to adaptive tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Result(NamedTuple):
    """A line of the summary."""

    job: Job
    width: int
    height: int
    tokens: int
    cost: float
    milliseconds: float


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dhvt_kernels {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command("info")
def info_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Print versions, backends (with the reason where one is missing), CPU features and build settings."""
    facts = info.collect()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for title, entries in facts.items():
        table.add_row(f"[bold]{title}[/]")
        for key, value in entries.items():
            if title == "backends":
                text = "[green]available[/]" if value is None else f"[yellow]missing:[/] {escape(value)}"
            else:
                text = "-" if value is None else escape(str(value))
            table.add_row(f"  {key}", text)
    Console(soft_wrap=True).print(table)


def _option(text: str, **limits: Any) -> Any:
    return typer.Option(help=text, rich_help_panel="Output", **limits)


_Device = Annotated[str, _option("Where to tokenize, e.g. cpu or cuda.")]


@app.command()
@tokenizer_options
def tokenize(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Pictures, or folders that are searched for pictures.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.", rich_help_panel="Output")],
    patch_size: Annotated[int, _option("Side of the tokens' patches in pixels.", min=1)] = 16,
    grid: Annotated[int, _option("Side of the tokens' position histograms.", min=1)] = 14,
    batch_size: Annotated[int, _option("Pictures of equal size tokenized together.", min=1)] = 8,
    saliency: Annotated[bool, _option("Also write how strong each border is, as NAME_saliency.png.")] = False,
    device: _Device = "cpu",
    **parameters: Any,
) -> None:
    """Tokenize pictures.

    For each NAME.jpg the output folder receives NAME_overlay.png (borders of the segments), NAME_mean.png (mean
    colours), NAME.svg (one exact polygon path per segment) and NAME.safetensors (labels and tokens). With --saliency
    also NAME_saliency.png: the darker a border, the greater the strength up to which it is one.

    A file that cannot be read is reported and left out; the exit code is then 1.
    """
    tokenizer = build_tokenizer(parameters, device)
    check_folder(output)

    warnings.filterwarnings("ignore", module=r"PIL\.")  # a broken file gets one line, ours
    report = Report()
    metadata = {"dhvt_kernels": __version__, "tokenizer": json.dumps(parameters)}
    write = partial(_write, patch_size=patch_size, grid=grid, metadata=metadata, report=report)
    jobs = find_jobs(images, output, report, partial(_files, saliency=saliency))
    results: list[Result] = []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=report.console, transient=True, disable=not report.console.is_terminal)
    with bar, ThreadPoolExecutor() as pool:
        task, before = bar.add_task("tokenizing", total=len(jobs)), report.failures
        for batch in _batches(jobs, batch_size, report):
            results += _process(batch, tokenizer, device, saliency, pool, write, report)
            bar.update(task, completed=len(results) + report.failures - before)
    _summary(sorted(results, key=lambda result: result.job.order), parameters["criterion"], output)
    if report.failures:
        raise typer.Exit(1)


app.command()(svg)


@app.command()
@tokenizer_options
def view(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file.", rich_help_panel="Output")],
    device: _Device = "cpu",
    **parameters: Any,
) -> None:
    """Write a page on which a slider moves through all budgets of a picture's tokens.

    The file holds all it needs and works offline. It opens at the cut that these options choose, and saves any other
    one as SVG, too. A picture of more than 2^21 pixels is scaled down to as many.
    """
    tokenizer = build_tokenizer(parameters, device)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    report = Report()
    try:
        picture = load_image(image, max_pixels=MAX_PIXELS)
        page = to_html(picture, tokenizer.hierarchy(picture[None].to(device)), title=printable(image.stem))
        write_text(output, page)
    except (MemoryError, OSError, RuntimeError, ValueError) as error:
        report.failed(image, error)
        raise typer.Exit(1) from error


def _files(target: Path, saliency: bool) -> list[Path]:
    """What is written for one picture: overlay, mean colours, SVG, tokens, and saliency if wanted."""
    ends = ["_overlay.png", "_mean.png", ".svg", ".safetensors", *(["_saliency.png"] if saliency else [])]
    return [target.with_name(target.name + end) for end in ends]


def _batches(jobs: Iterable[Job], batch_size: int, report: Report) -> Iterator[list[tuple[Job, Tensor]]]:
    """Read the pictures and group them by size; never holds more than about four batches of pixels."""
    waiting: dict[torch.Size, list[tuple[Job, Tensor]]] = {}
    held = 0
    for job in jobs:
        try:
            picture = load_image(job.path)
        except (OSError, ValueError) as error:
            report.failed(job.path, error)
            continue
        pixels = picture[0].numel()
        group = waiting.setdefault(picture.shape, [])
        group.append((job, picture))
        held += pixels
        full = len(group) == batch_size or (len(group) + 1) * pixels > BATCH_PIXELS
        while full or held > 4 * BATCH_PIXELS:
            size = picture.shape if full else max(waiting, key=lambda size: len(waiting[size]) * size.numel())
            batch = waiting.pop(size)
            held -= len(batch) * size.numel() // 3
            full = False
            yield batch
    yield from waiting.values()


def _process(
    batch: list[tuple[Job, Tensor]],
    tokenizer: Tokenizer,
    device: str,
    saliency: bool,
    pool: ThreadPoolExecutor,
    write: Callable[[Job, Tensor, Partition, Tensor | None], None],
    report: Report,
) -> list[Result]:
    """Tokenize pictures of equal size and write their files; the summary of those that succeeded."""
    try:
        pictures = torch.stack([picture for _, picture in batch]).to(device)
        hierarchy, partition, seconds = _run(tokenizer, pictures)
        maps = hierarchy.saliency().unbind() if saliency else (None,) * len(batch)
    except (MemoryError, RuntimeError, ValueError) as error:
        for job, _ in batch:
            report.failed(job.path, error)
        return []
    written = [pool.submit(write, job, picture, partition[i], maps[i]) for i, (job, picture) in enumerate(batch)]
    results = []
    for i, ((job, picture), done) in enumerate(zip(batch, written, strict=True)):
        try:
            done.result()
        except (MemoryError, OSError, RuntimeError, ValueError) as error:
            report.failed(job.path, error)
            continue
        tokens, cost = int(partition.counts[i]), float(partition.cost[i])
        results.append(Result(job, picture.shape[2], picture.shape[1], tokens, cost, 1e3 * seconds / len(batch)))
    return results


@torch.no_grad()
def _run(tokenizer: Tokenizer, pictures: Tensor) -> tuple[Hierarchy, Partition, float]:
    start = time.perf_counter()
    hierarchy = tokenizer.hierarchy(pictures)
    partition = hierarchy.cut()
    if pictures.is_cuda:
        torch.cuda.synchronize(pictures.device)
    return hierarchy, partition, time.perf_counter() - start


def _write(
    job: Job,
    picture: Tensor,
    partition: Partition,
    saliency: Tensor | None,
    *,
    patch_size: int,
    grid: int,
    metadata: dict[str, str],
    report: Report,
) -> None:
    """Write the files of one picture."""
    overlay_file, mean_file, svg_file, tokens_file, *saliency_file = _files(job.target, saliency is not None)
    job.target.parent.mkdir(parents=True, exist_ok=True)
    save_image(overlay(picture, partition), overlay_file)
    save_image(mean_colors(picture, partition), mean_file)
    write_text(svg_file, to_svg(picture, partition))
    if saliency is not None:
        save_image(saliency_picture(saliency), saliency_file[0])
    tensors = token_tensors(picture, partition, patch_size=patch_size, grid=grid)
    if "patches" not in tensors:
        report.note(f"{job.path}: {len(tensors['count'])} tokens, so their patches and histograms are not written")
    values = {"criterion_value": float(partition.cost[0]), "strength": float(partition.strength[0])}
    texts = {"picture": printable(job.path.name), **metadata, **{name: repr(value) for name, value in values.items()}}
    tokens_file.write_bytes(save(tensors, texts))  # save_file would leave a file that nobody else may read


def token_tensors(picture: Tensor, partition: Partition, *, patch_size: int, grid: int) -> dict[str, Tensor]:
    """What NAME.safetensors holds for one picture of K tokens.

    Args:
        picture: uint8 [3,H,W].
        partition: its partition.
        patch_size: P.
        grid: G.

    Returns:
        `labels` int32 [H,W]; `count` [K], pixels of each token; `mean_color` [K,3], sRGB in [0, 1]; `centroid` [K,2]
        and `box` [K,4], `y` before `x`. Where `PATCH_SAMPLES` allows also `patches` uint8 [K,3,P,P], `masks` uint8
        [K,P,P] (255 = the token's own pixels) and `position_histogram` [K,G,G].
    """
    tokens, labels = int(partition.counts[0]), partition.labels
    image = picture[None].to(labels.device, torch.float32)
    moments = partition.moments(image)
    boxes = moments.box[:, :tokens]
    tensors = {
        "labels": labels[0],
        "count": moments.count[0, :tokens],
        "mean_color": moments.mean[0, :tokens] / 255,
        "centroid": moments.centroid[0, :tokens],
        "box": boxes[0],
    }
    if tokens * max(patch_size, grid) ** 2 <= PATCH_SAMPLES:
        patches, masks = token_patches(image, labels, boxes, size=patch_size)
        tensors["patches"] = patches[0].round().to(torch.uint8)
        tensors["masks"] = masks[0, :, 0].mul(255).round().to(torch.uint8)
        tensors["position_histogram"] = position_histogram(labels, num_segments=tokens, grid=(grid, grid))[0]
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _summary(results: list[Result], criterion: str, output: Path) -> None:
    if not results:
        return
    table = Table(show_footer=True)
    total = sum(result.tokens for result in results)
    mean = sum(result.milliseconds for result in results) / len(results)
    table.add_column("picture", f"{len(results)} in {escape(printable(output))}", overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("tokens", f"{total:,}", justify="right")
    table.add_column(criterion, justify="right")
    table.add_column("ms", f"{mean:.1f} mean", justify="right")
    rows = [
        (
            escape(printable(result.job.target.relative_to(output))),
            f"{result.width} x {result.height}",
            f"{result.tokens:,}",
            f"{result.cost:,.0f}",
            f"{result.milliseconds:.1f}",
        )
        for result in results
    ]
    print_summary(table, rows)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point of the command `dhvt`."""
    usage_error = typer.BadParameter.__base__  # public only under this name, whichever click typer brings
    try:
        code = app(args=arguments, prog_name="dhvt", standalone_mode=False)
    except usage_error as error:  # type: ignore[misc]
        message = " ".join(error.format_message().split())
        if message:  # without arguments there is none: typer has printed the help
            print(f"dhvt: {message}", file=sys.stderr)
        code = 2
    except typer.Abort:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
