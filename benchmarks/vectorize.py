"""Raster to vector beside vtracer and potrace: size, quality and time on photographs and emoji.

    python -m benchmarks.vectorize --bsds FOLDER --twemoji FOLDER

Protocol: every method draws every picture at several settings; each SVG file is rendered by resvg over white at the
picture's size and compared with it. Sizes and qualities are the same in every run; times are taken afterwards, alone.
"""

import argparse
import importlib.util
import json
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.markup import escape

from dhvt_kernels.imaging import load_image

from . import vectorize_report as report
from . import vectorize_times as times
from .superpixels import collect, find_photographs, in_workers, provenance, rounded
from .vectorize_measures import measure, render
from .vectorize_methods import METHODS, Draw, Method, Pixels, program_version

PLOT = Path(__file__).parents[1] / "docs" / "images" / "vectorize.png"
#: Longest side of a photograph, and side of an emoji.
SIDE = 512
SCIKIT_IMAGE = ("astronaut", "chelsea", "coffee", "rocket")
NUMBER = {"BSDS500": 20, "Twemoji": 100}
#: So many pictures of each set are timed, and these methods.
TIMED_PICTURES = 3
TIMED = ("presets", "stacked_polygon", "potrace_polygon")


class Picture(NamedTuple):
    set: str
    name: str
    path: Path | None = None


def find_emoji(folder: Path, number: int) -> list[Path]:
    """So many SVG files, evenly over their sorted names."""
    found = sorted(folder.glob("*.svg"))
    if not found:
        what = "no SVG files in this folder" if folder.is_dir() else "no such folder"
        raise ValueError(f"{folder}: {what}. The emoji are those of the npm package @twemoji/svg (npm pack, then tar).")
    number = min(number, len(found))
    return [found[i * len(found) // number] for i in range(number)]


def find_pictures(bsds: Path | None, twemoji: Path | None, limit: int | None) -> list[Picture]:
    """All sets, or the first so many of each."""
    found = [Picture("scikit-image", name) for name in SCIKIT_IMAGE][:limit]
    if bsds is not None:
        paths = find_photographs(bsds)[: NUMBER["BSDS500"]]
        found += [Picture("BSDS500", path.stem, path) for path in paths[:limit]]
    if twemoji is not None:
        paths = find_emoji(twemoji, NUMBER["Twemoji"] if limit is None else min(limit, NUMBER["Twemoji"]))
        found += [Picture("Twemoji", path.stem, path) for path in paths]
    return found


def load(picture: Picture) -> Pixels:
    """Photographs as they are if they are small enough; emoji drawn large."""
    if picture.path is None:
        from skimage import data

        image = Image.fromarray(getattr(data, picture.name)())
    elif picture.set == "Twemoji":
        return render(picture.path.read_text(), SIDE, SIDE)
    else:
        image = Image.fromarray(load_image(picture.path).permute(1, 2, 0).contiguous().numpy())
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.array(image)


def least_bytes(quality: Callable[[int], tuple[int, float]], most: int) -> int | None:
    """Bytes at the least budget that reaches the target, by bisection; None if the largest, `most`, does not.

    `quality(budget)` is bytes and PSNR, which rises with the budget but for small steps.
    """
    size, reached = quality(most)
    if reached < report.TARGET:
        return None
    low = 0
    while most - low > 1:
        middle = (low + most) // 2
        found, reached = quality(middle)
        if reached >= report.TARGET:
            most, size = middle, found
        else:
            low = middle
    return size


def measure_picture(picture: Picture, names: Sequence[str]) -> dict[str, Any]:
    """Every run of every method, `[bytes, paths, vertices, PSNR, SSIM]` each."""
    image = load(picture)
    record: dict[str, Any] = {"set": picture.set, "name": picture.name, "size": list(image.shape[:2]), "runs": {}}
    for method in METHODS:
        if method.name in names:
            draw = method.prepare(image)
            record["runs"][method.name] = [measure(draw(setting), image) for setting in method.settings.values()]
            if picture.set == "Twemoji" and method.ours:
                record["original"] = picture.path.stat().st_size
                record.setdefault("reached", {})[method.name] = _reached(draw, image, method)
    return record


def _reached(draw: Draw, image: Pixels, method: Method) -> int | None:
    def quality(budget: int) -> tuple[int, float]:
        run = measure(draw({"max_tokens": budget}), image)
        return run.bytes, run.psnr

    return least_bytes(quality, max(setting["max_tokens"] for setting in method.settings.values()))


def measure_times(pictures: Sequence[Picture], methods: Sequence[Method], console: Console) -> dict[str, Any]:
    """`Times` of the first pictures of each set on one thread and on all: by number of threads, then by picture."""
    chosen = [method for method in methods if method.name in (methods[0].name, *TIMED)]
    timed = [
        picture
        for name in dict.fromkeys(picture.set for picture in pictures)
        for picture in [picture for picture in pictures if picture.set == name][:TIMED_PICTURES]
    ]
    found: dict[str, Any] = {}
    for threads in sorted({1, torch.get_num_threads()}):
        of = (times.measure(load(picture), chosen, threads) for picture in timed)
        with console.status(f"times, {threads} thread{'s' * (threads > 1)}"):
            found[str(threads)] = {picture.name: one for picture, one in zip(timed, of, strict=True)}
    return found


def available(errors: Console) -> list[Method]:
    """The methods that can run here; one line about each that cannot."""
    for method in METHODS:
        if method.missing():
            errors.print(f"{method.title} is left out: pip install {method.package}.")
    return [method for method in METHODS if not method.missing()]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vectorize", description=__doc__.splitlines()[0])
    parser.add_argument("--bsds", type=Path, help="folder with ID.jpg and ID.npz (BSDS500)")
    parser.add_argument("--twemoji", type=Path, help="folder with SVG files (npm package @twemoji/svg)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    parser.add_argument("--plot", type=Path, default=PLOT, help="file for the curves")
    parser.add_argument("--images", type=int, help="quick look: only the first N pictures of each set")
    options = parser.parse_args(arguments)
    if options.images is not None and options.images < 1:
        parser.error(f"--images: expected at least 1; found {options.images}")
    console, errors = Console(), Console(stderr=True, soft_wrap=True, highlight=False)
    for module, package in (("skimage", "scikit-image"), ("resvg_py", "resvg-py")):
        if importlib.util.find_spec(module) is None:
            errors.print(f"[red]error:[/] {package} is missing (pip install {package}).")
            return 2
    try:
        pictures = find_pictures(options.bsds, options.twemoji, options.images)
    except ValueError as error:
        errors.print(f"[red]error:[/] {escape(str(error))}")
        return 2

    methods = available(errors)
    work = partial(measure_picture, names=[method.name for method in methods])
    results, stopped = collect(in_workers(work, pictures), len(pictures), console, errors)
    if not results:
        return 1
    record = provenance(("pillow", "resvg-py", "scikit-image"))
    record["versions"] |= {method.package: program_version(method.package) for method in methods if method.package}
    record |= {
        "methods": {
            method.name: {"title": method.title, "ours": method.ours, "runs": list(method.settings)}
            for method in methods
        },
        "pictures": results,
        "times": {} if stopped else measure_times(pictures, methods, console),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "vectorize.json"
    path.write_text(lines(rounded(record)))
    path.with_suffix(".md").write_text(report.markdown(record))
    report.show(record, console)
    report.draw(record, options.plot, errors)
    console.print(f"Written: {path}, {path.with_suffix('.md').name} and {options.plot}.", soft_wrap=True)
    return 1 if stopped else 0


def lines(record: dict[str, Any]) -> str:
    """JSON with a line for each entry, and for each picture."""

    def entry(value: Any) -> str:
        if isinstance(value, list):
            return "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        return json.dumps(value)

    return "{\n" + ",\n".join(f" {json.dumps(key)}: {entry(value)}" for key, value in record.items()) + "\n}\n"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped from outside is like Ctrl-C
    sys.exit(main())
