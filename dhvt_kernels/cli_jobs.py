"""What the commands that take many pictures have in common: which pictures, where to, and what went wrong."""

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from .cli_options import one_line
from .imaging import find_images

#: A summary lists this many pictures; its last line counts all.
TABLE_ROWS = 50


class Job(NamedTuple):
    """One picture: its place in the summary, its file, and the output path without suffix."""

    order: int
    path: Path
    target: Path


class Report:
    """One line on standard error for everything that the user should know."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.failures = 0

    def failed(self, path: Path, error: Exception) -> None:
        """Count a picture that is left out, and say why."""
        self.failures += 1
        text = getattr(error, "strerror", None) or one_line(error)
        culprit = getattr(error, "filename", None)
        if culprit is not None and Path(culprit) != path:
            text = f"{text}: {culprit}"  # a result that cannot be written
        self.note(text if text.startswith(f"{path}: ") else f"{path}: {text}", style="red")

    def note(self, text: str, style: str = "") -> None:
        self.console.print(printable(text), style=style, markup=False, highlight=False, soft_wrap=True)


def printable(name: str | Path) -> str:
    """Names of files may hold any bytes; what is printed or stored may not."""
    return os.fsencode(name).decode(errors="replace")


def find_jobs(images: Iterable[Path], output: Path, report: Report, files: Callable[[Path], list[Path]]) -> list[Job]:
    """Every picture once, with an output path that keeps its place in its folder and is nobody else's.

    Args:
        images: pictures, and folders of pictures.
        output: the folder for the results.
        report: is told what cannot be read, or would be overwritten.
        files: the files that are written for a target.
    """
    jobs: dict[Path, Job] = {}
    targets: set[Path] = set()
    results = real_path(output)
    for root in images:
        try:
            found = find_images(root)
        except (OSError, ValueError) as error:
            report.failed(root, error)
            continue
        for path in found:
            resolved = real_path(path)
            earlier_result = real_path(root) in results.parents and results in resolved.parents
            if resolved in jobs or earlier_result:
                continue
            name = path.relative_to(root) if root.is_dir() else Path(path.name)
            target, copy = output / name.with_suffix(""), 1
            while target in targets:
                copy += 1
                target = output / name.with_name(f"{name.stem}-{copy}")
            targets.add(target)
            jobs[resolved] = Job(len(jobs), path, target)
    safe = []
    for job in jobs.values():
        lost = [file for file in files(job.target) if real_path(file) in jobs]
        if lost:
            report.failed(job.path, ValueError(f"the results would overwrite {lost[0]}; choose another output folder"))
        else:
            safe.append(job)
    return safe


def real_path(path: Path) -> Path:
    """Without links; one that leads to itself stays."""
    return Path(os.path.realpath(path))


def check_folder(output: Path) -> None:
    """Refuse an output folder that is a file, or can be nothing."""
    try:
        is_folder = stat.S_ISDIR(output.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise typer.BadParameter(f"{output}: {error.strerror}") from error
    if not is_folder:
        raise typer.BadParameter(f"{output}: not a folder")


def print_summary(table: Table, rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table with its first lines; what stands in its footer counts all."""
    for row in rows[:TABLE_ROWS]:
        table.add_row(*row)
    if len(rows) > TABLE_ROWS:
        table.add_row(f"... and {len(rows) - TABLE_ROWS} more")
    Console().print(table)
