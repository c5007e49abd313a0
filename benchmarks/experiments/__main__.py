"""The published tables in small, on real data.

    python -m benchmarks.experiments table1 --data CALTECH-101 --weights VIT-S [--small]

table1: classification, methods at three budgets. table2: segmentation of CamVid. depth: levels of the hierarchy.
criterion: fixed count, AIC, BIC, MDL; soft and pixel leaves. A run that was stopped goes on where it was.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from ..superpixels import provenance
from . import report
from .plans import TABLES, plan
from .run import Table, run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--data", type=Path, required=True, help="folder of Caltech-101 (table2: of CamVid)")
    parser.add_argument("--weights", type=Path, help="state dict of a ViT-S/16, names of timm; without: random")
    parser.add_argument("--small", action="store_true", help="for a CPU: fewer pixels, photographs and epochs")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results", help="folder for results")
    options = parser.parse_args(arguments)
    console, errors = Console(), Console(stderr=True, soft_wrap=True, highlight=False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = plan(options.table, options.small)
    try:
        table = Table(chosen, options.data, options.weights, device)
        table.build(chosen.entries[0], 0)  # refuses weights that do not fit
    except (ValueError, OSError, ImportError) as error:
        errors.print(f"[red]error:[/] {escape(str(error))}")
        return 2

    name = f"experiments_{options.table}{'_small' if options.small else ''}"
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{name}.json"
    about = provenance(["timm", "transformers"])
    if device.type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
    try:
        record = run(table, path, about, lambda line: console.print(line, highlight=False))
    except KeyboardInterrupt:
        errors.print("interrupted; the same command goes on from here.")
        return 130
    path.with_suffix(".md").write_text(report.markdown(record, chosen))
    if find_spec("matplotlib") is None:
        errors.print("No plot: matplotlib is missing (pip install matplotlib).")
    else:
        report.plot(record, chosen, path.with_suffix(".png"))
    console.print(report.markdown(record, chosen), highlight=False)
    console.print(f"Written to {options.output}: {name}.json and .md, and a plot.", soft_wrap=True)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped from outside is like Ctrl-C
    sys.exit(main())
