"""Pictures of `benchmarks.superpixels`: what the methods make of photographs that may be shown anywhere.

These are the ones inside the scikit-image wheel, as the photographs that are measured must not be passed on.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from rich.console import Console

from .superpixel_measures import boundary, mean_colors
from .superpixel_methods import Image, Method

BUDGET = 100
SIZE = (300, 200)  # of a picture, columns x rows
SHOWN = ("slic", "seeds", "felzenszwalb", "published", "default")
LINE = np.array((255, 235, 60), np.uint8)


def photographs() -> list[Image]:
    """Of scikit-image, cut to the middle and scaled to `SIZE`."""
    from skimage import data

    return [fitted(photograph) for photograph in (data.chelsea(), data.coffee(), data.rocket(), data.astronaut())]


def fitted(photograph: Image) -> Image:
    picture = Pillow.fromarray(photograph)
    scale = max(SIZE[0] / picture.width, SIZE[1] / picture.height)
    width, height = SIZE[0] / scale, SIZE[1] / scale
    left, top = (picture.width - width) / 2, (picture.height - height) / 4  # faces are above the middle
    return np.array(picture.resize(SIZE, Pillow.Resampling.LANCZOS, (left, top, left + width, top + height)))


def sheets(methods: Sequence[Method], images: Sequence[Image]) -> tuple[list[list[Image]], list[list[Image]]]:
    """Rows of pictures, a photograph and what each method makes of it: with its boundaries, and in mean colours."""
    outlined, painted = [], []
    for image in images:
        maps = [method.divide(image, (BUDGET,))[0] for method in methods]
        outlined.append([image, *(np.where(boundary(labels)[..., None], LINE, image) for labels in maps)])
        painted.append([image, *(mean_colors(image, labels).round().astype(np.uint8) for labels in maps)])
    return outlined, painted


def sheet(pictures: Sequence[Sequence[Image]], titles: Sequence[str], gap: int = 6, text: int = 15) -> Pillow.Image:
    """Pictures in rows and columns on white, a title above each column."""
    font, line = ImageFont.load_default(text), text + 12
    height, width = pictures[0][0].shape[:2]
    size = (len(titles) * (width + gap) + gap, line + len(pictures) * (height + gap))
    page = Pillow.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        left = gap + column * (width + gap)
        draw.text((left + width // 2, line // 2), title, "#333333", font, anchor="mm")
        for row, of in enumerate(pictures):
            page.paste(Pillow.fromarray(of[column]), (left, line + row * (height + gap)))
    return page


def draw(methods: Sequence[Method], folder: Path, errors: Console) -> None:
    """Two sheets into a folder: boundaries and mean colours."""
    try:
        images = photographs()
    except ModuleNotFoundError:
        errors.print("The gallery is left out: its photographs are in scikit-image (pip install scikit-image).")
        return
    shown = [method for name in SHOWN for method in methods if method.name == name]
    titles = [f"{BUDGET} segments of:", *(method.title for method in shown)]
    for name, pictures in zip(("boundaries", "colors"), sheets(shown, images), strict=True):
        page = sheet(pictures, titles).quantize(256, dither=Pillow.Dither.NONE)
        page.save(folder / f"superpixels_{name}.png", optimize=True)
