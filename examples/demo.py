"""Tokenize the photographs that scikit-image ships: pictures into a folder, figures onto the screen.

    python examples/demo.py [--output demo] [--docs]

For each photograph at full size: the borders of its tokens, their mean colours, and an SVG. For all of them one contact
sheet. The figures are for the usual input of a Vision Transformer, 224 x 224 pixels.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import track
from rich.table import Table
from skimage import data
from torch import Tensor

import dhvt_kernels as dk
from dhvt_kernels.imaging import mean_colors, overlay, save_image

# All of these are inside the scikit-image wheel: nothing is downloaded.
PHOTOGRAPHS = {
    "astronaut": data.astronaut,
    "cat": data.chelsea,
    "coffee": data.coffee,
    "rocket": data.rocket,
    "motorcycle": lambda: data.stereo_motorcycle()[0],
}
BUDGETS = (64, 128, 196)
SIDE = 224


def crop(photograph: Tensor, side: int) -> Tensor:
    """The photograph scaled to a short side of `side` pixels and cut to its central square, uint8 [3,side,side]."""
    image = Image.fromarray(photograph.permute(1, 2, 0).numpy())
    scale = side / min(image.size)
    width, height = (max(side, round(size * scale)) for size in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - side) // 2, (height - side) // 2
    return torch.from_numpy(np.array(image.crop((left, top, left + side, top + side)))).permute(2, 0, 1).contiguous()


def milliseconds(function, image: Tensor, repeats: int) -> float:
    """Median time of a call; one call before does not count when there is more than one."""
    times = []
    with torch.no_grad():
        for _ in range(repeats + (repeats > 1)):
            start = time.perf_counter()
            function(image)
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[-repeats:])


def sheet(
    rows: list[list[tuple[Tensor, str]]], titles: list[str], side: int, gap: int = 8, text: int = 17
) -> Image.Image:
    """Pictures in rows and columns, each with a caption below it, on white."""
    font = ImageFont.load_default(text)
    line = text + 9
    columns = len(titles)
    page = Image.new("RGB", (columns * (side + gap) + gap, line + len(rows) * (side + line) + gap), "white")
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        middle = gap + column * (side + gap) + side // 2
        draw.text((middle, line // 2 + 2), title, "black", font, anchor="mm", stroke_width=0.4)
        for row, pictures in enumerate(rows):
            top = line + row * (side + line)
            picture, caption = pictures[column]
            page.paste(Image.fromarray(picture.permute(1, 2, 0).numpy()), (middle - side // 2, top))
            draw.text((middle, top + side + line // 2 - 1), caption, "#555555", font, anchor="mm")
    return page


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for the pictures (default: demo)")
    parser.add_argument("--docs", action="store_true", help="also write docs/images/demo.png")
    parser.add_argument("--repeats", type=int, default=9, help="timed calls of the native path (default: 9)")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)

    tokenizer = dk.Tokenizer()
    console = Console()
    table = Table(title=f"{SIDE} x {SIDE} pixels, {torch.get_num_threads()} threads")
    table.add_column("photograph")
    table.add_column("tokens", justify="right")
    for budget in BUDGETS:
        table.add_column(f"at {budget}", justify="right")
    for title in ("ms", "ref. ms", "speed-up"):
        table.add_column(title, justify="right")

    rows = []
    for name, photograph in track(PHOTOGRAPHS.items(), "tokenizing", console=console, transient=True):
        full = torch.from_numpy(photograph()).permute(2, 0, 1).contiguous()
        partition = tokenizer(full[None])
        save_image(overlay(full, partition), options.output / f"{name}_overlay.png")
        save_image(mean_colors(full, partition), options.output / f"{name}_mean.png")
        (options.output / f"{name}.svg").write_text(dk.to_svg(full, partition))

        image = crop(full, SIDE)
        hierarchy = tokenizer.hierarchy(image[None])
        default = hierarchy.cut()
        cuts = [hierarchy.cut(max_tokens=budget) for budget in BUDGETS]
        native = milliseconds(tokenizer, image[None], options.repeats)
        with dk.backend("reference"):
            reference = milliseconds(tokenizer, image[None], 1)
        counts = [str(int(cut.counts[0])) for cut in (default, *cuts)]
        table.add_row(name, *counts, f"{native:.1f}", f"{reference:.0f}", f"{reference / native:.0f}x")
        rows.append([(image, name)])
        for cut, draw in ((default, overlay), *((cut, mean_colors) for cut in cuts)):
            rows[-1].append((draw(image, cut), f"{int(cut.counts[0])} tokens"))

    page = sheet(rows, ["photograph", "default tokens", *(f"budget {budget}" for budget in BUDGETS)], SIDE)
    page.save(options.output / "contact_sheet.png", optimize=True)
    if options.docs:
        docs = Path(__file__).resolve().parents[1] / "docs" / "images"
        docs.mkdir(parents=True, exist_ok=True)
        page.quantize(256, dither=Image.Dither.NONE).save(docs / "demo.png", optimize=True)
    console.print(table)
    console.print(f"Pictures: {options.output}/contact_sheet.png; for each photograph its overlay, mean colours, SVG.")


if __name__ == "__main__":
    main()
