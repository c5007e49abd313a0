"""A retrofitted ViT-B/16 beside the plain one: overhead, speed-up with half the tokens, and every choice of attention.

    python -m benchmarks.retrofit                # CPU: 8 photographs in float32, on one thread
    python -m benchmarks.retrofit --device cuda  # 64 photographs in bfloat16

Protocol: 224 x 224 pixels, random weights (the time does not depend on them), no gradient. All candidates take turns,
round by round; each has its best time of all rounds. On one CPU thread that is processor time, which other work on the
machine disturbs least; else it is time on the wall, on a GPU between two events.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

import dhvt_kernels as dk

from .libraries import library
from .measure import driver, seconds
from .superpixel_report import row
from .superpixels import provenance, rounded

SIDE, PATCH, BUDGET = 224, 16, 98
#: The most that the retrofit may add on the model's own grid, and how much faster it must be with half the tokens.
OVERHEAD, SPEEDUP = {"cpu": 0.15, "cuda": 0.10}, 1.6
CHOICES = ("mask", "buckets", "nested", "varlen", "flex", "auto")
PHOTOGRAPHS = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
    "retina",
    "hubble_deep_field",
    "immunohistochemistry",
    "coins",
)

Call = Callable[[], Any]


def photographs(number: int) -> Tensor:
    """`[number,3,224,224]` in [0, 1]: whole photographs, then quarters of them."""
    whole = [_square(np.atleast_3d(getattr(skimage.data, name)())[..., :3]) for name in PHOTOGRAPHS]
    half = [image.shape[-1] // 2 for image in whole]
    quarters = [
        image[:, y * side : (y + 1) * side, x * side : (x + 1) * side]
        for y in (0, 1)
        for x in (0, 1)
        for image, side in zip(whole, half, strict=True)
    ]
    images = whole + quarters
    images += [image.flip(-1) for image in images]
    resized = [
        torch.nn.functional.interpolate(image[None], (SIDE, SIDE), mode="bilinear", antialias=True)
        for image in images[:number]
    ]
    return torch.cat(resized).clamp(0, 1)  # rounding may leave it


def _square(photograph: Any) -> Tensor:
    side = min(photograph.shape[:2])
    image = torch.from_numpy(photograph[:side, :side].copy()).permute(2, 0, 1).float() / 255
    return image.expand(3, -1, -1)


class Bench:
    """The candidates on one batch, on one device."""

    def __init__(self, name: str, batch: int, device: str) -> None:
        torch.manual_seed(0)
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        timm = library("timm")
        self.device = device
        self.model = timm.create_model(name).eval().to(device, dtype)
        self.images = (photographs(batch).to(device, dtype) - 0.5) / 0.5

    def retrofit(self, tokenizer: torch.nn.Module, **options: Any) -> dk.Retrofit:
        return dk.retrofit(self.model, tokenizer.to(self.device), **options).to(self.device)

    def candidates(self) -> tuple[dict[str, Call], dict[str, Call], list[int], list[int], dict[str, str]]:
        """What is timed, end to end and on ragged rows; both numbers of tokens; why a choice is left out."""
        images, half = self.images, self.retrofit(dk.Tokenizer(), max_tokens=BUDGET)
        grid = self.retrofit(dk.GridTokenizer(PATCH))
        partition = half.tokenize(images)
        calls = {
            "plain": lambda: self.model(images),
            "grid": lambda: grid(images),
            "half": lambda: half(images),
            "half, tokenizer": lambda: half.tokenize(images),
            "half, backbone": lambda: half(images, partition),
        }
        many, ragged, missing = self.retrofit(dk.Tokenizer()).tokenize(images), {}, {}
        for choice in CHOICES:
            try:
                vit = self.retrofit(dk.Tokenizer(), attention=choice)
                call = partial(vit, images, many)
                call()
            except Exception as error:  # a choice that cannot run here must not cost the others
                missing[choice] = " ".join(str(error).split())[:300]
            else:
                ragged[choice] = call
        return calls, ragged, partition.counts.tolist(), many.counts.tolist(), missing


def best_times(calls: dict[str, Call], rounds: int, device: str) -> dict[str, float]:
    """Seconds of the fastest call of each; they take turns, in an order that turns round."""
    best = dict.fromkeys(calls, float("inf"))
    for number in range(rounds + 1):  # the first warms up
        for name in list(calls)[:: 1 if number % 2 else -1]:
            taken = _processor_seconds(calls[name]) if _by_processor(device) else seconds(calls[name], 3, device)
            if number:
                best[name] = min(best[name], taken)
    return best


def _by_processor(device: str) -> bool:
    return device == "cpu" and torch.get_num_threads() == 1


def _processor_seconds(call: Call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


@torch.no_grad()
def measure(bench: Bench, rounds: int) -> dict[str, Any]:
    """Times, numbers of tokens, and what was to be reached."""
    calls, ragged, half, many, missing = bench.candidates()
    named = {**calls, **{f"attention={choice}": call for choice, call in ragged.items()}}
    times = best_times(named, rounds, bench.device)
    overhead, speedup = times["grid"] / times["plain"] - 1, times["plain"] / times["half"]
    limit = OVERHEAD[bench.device]
    return {
        "seconds": times,
        "tokens": {"plain": (SIDE // PATCH) ** 2, "half": half, "ragged": many},
        "missing": missing,
        "targets": {
            "overhead on the own grid": {"limit": limit, "measured": overhead, "reached": overhead <= limit},
            "speed-up with 98 tokens": {"limit": SPEEDUP, "measured": speedup, "reached": speedup >= SPEEDUP},
        },
    }


TITLES = {
    "plain": "plain, fused attention",
    "grid": "retrofitted, `GridTokenizer(16)`",
    "half": "retrofitted, `max_tokens=98`",
    "half, tokenizer": "of it `Tokenizer()`",
    "half, backbone": "of it the rest",
}


def lines(record: dict[str, Any]) -> list[list[str]]:
    """Title, tokens, milliseconds, images per second, times the plain model's throughput."""
    plain, tokens, out = record["seconds"]["plain"], record["tokens"], []
    for name, taken in record["seconds"].items():
        counts = tokens["ragged"] if name.startswith("attention=") else tokens["half"]
        mean = f"{sum(counts) / len(counts):.0f}"
        number = str(tokens["plain"]) if name in ("plain", "grid") else mean
        title = TITLES.get(name) or f"given segments, `{name}`"
        throughput = record["batch"] / taken
        digits = 2 if throughput < 100 else 0
        out.append([title, number, f"{1e3 * taken:.1f}", f"{throughput:.{digits}f}", f"{plain / taken:.2f}"])
    return out


COLUMNS = ["", "tokens", "ms per batch", "images/s", "times plain"]


def heading(record: dict[str, Any]) -> str:
    machine = record["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items() if name != "platform")
    where = f"{machine['gpu']}, driver {machine['driver']}, on {machine['cpu']}" if "gpu" in machine else machine["cpu"]
    threads = "" if "gpu" in machine else f", {record['threads']} thread{'s' * (record['threads'] > 1)}"
    return f"{where}{threads}; {record['clock']}; commit {record['commit']}; {versions}"


def markdown(record: dict[str, Any]) -> str:
    made = [
        "# Retrofit",
        "",
        f"By `python -m benchmarks.retrofit`. {heading(record)}.",
        "",
        f"{record['model']} on {record['batch']} photographs of {SIDE} x {SIDE} pixels, {record['dtype']}, without "
        f"gradient; best of {record['rounds']} rounds in which all take turns. Tokens of the given segments: "
        f"{', '.join(map(str, record['tokens']['ragged']))}.",
        "",
        row(COLUMNS),
        row(["---", *["---:"] * (len(COLUMNS) - 1)]),
        *map(row, lines(record)),
        "",
    ]
    for name, target in record["targets"].items():
        verdict = "reached" if target["reached"] else "missed"
        made.append(f"* {name}: {target['measured']:.2f}, to reach {target['limit']}: {verdict}")
    made += [f'* `attention="{choice}"` did not run: {reason}' for choice, reason in record["missing"].items()]
    return "\n".join(made) + "\n"


def show(record: dict[str, Any], console: Console) -> None:
    table = Table(title=f"{record['model']}, batch {record['batch']}", box=SIMPLE, padding=(0, 1, 0, 0))
    for place, title in enumerate(COLUMNS):
        table.add_column(title, justify="right" if place else "left")
    for cells in lines(record):
        table.add_row(*(cell.replace("`", "") for cell in cells))
    console.print(table)
    for name, target in record["targets"].items():
        mark = "[green]reached[/]" if target["reached"] else "[red]missed[/]"
        console.print(f"{name}: {target['measured']:.3f}, to reach {target['limit']}: {mark}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrofit", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, help="photographs, at most 80; 8 on the CPU, 64 on a GPU")
    parser.add_argument("--threads", type=int, default=1, help="on the CPU")
    parser.add_argument("--rounds", type=int, help="5 on the CPU, 20 on a GPU")
    parser.add_argument("--model", default="vit_base_patch16_224", help="of timm, with patches of 16 for 224 pixels")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    options = parser.parse_args(arguments)
    console, gpu = Console(), options.device == "cuda"
    if gpu and not torch.cuda.is_available():
        parser.error("--device: no CUDA device here")
    batch = (64 if gpu else 8) if options.batch is None else options.batch
    rounds = (20 if gpu else 5) if options.rounds is None else options.rounds
    for name, value, most in (("batch", batch, 80), ("rounds", rounds, 1000), ("threads", options.threads, 1024)):
        if not 1 <= value <= most:
            parser.error(f"--{name}: expected 1 to {most}; found {value}")
    torch.set_num_threads(options.threads)
    try:
        bench = Bench(options.model, batch, options.device)
    except (ImportError, RuntimeError) as error:
        Console(stderr=True).print(f"[red]error:[/] {escape(str(error))}")
        return 2
    origin = provenance(("timm", "scikit-image"))
    if gpu:
        origin["machine"] |= {"gpu": torch.cuda.get_device_name(), "driver": driver()}
    clock = "processor time" if _by_processor(options.device) else "time between events" if gpu else "time on the wall"
    record = {
        **origin,
        "model": options.model,
        "batch": batch,
        "dtype": str(bench.images.dtype).removeprefix("torch."),
        "threads": options.threads,
        "clock": clock,
        "rounds": rounds,
        **measure(bench, rounds),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / ("retrofit-cuda.json" if gpu else "retrofit.json")
    path.write_text(json.dumps(rounded(record), indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(record))
    show(record, console)
    console.print(f"Written to {options.output}: {path.name} and .md.", soft_wrap=True)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped from outside is like Ctrl-C
    sys.exit(main())
