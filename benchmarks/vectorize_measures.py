"""What `benchmarks.vectorize` measures of an SVG file."""

import io
import re
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Half a level of rounding, evenly distributed: below it no error of a uint8 picture means anything.
LEAST_ERROR = 1 / 12

#: Numbers that a command of path data takes for each of its vertices.
NUMBERS = {"m": 2, "l": 2, "h": 1, "v": 1, "c": 6, "s": 4, "q": 4, "t": 2}
_COMMAND = re.compile(r"([a-zA-Z])([^a-df-zA-DF-Z]*)")  # e is part of a number
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


class Run(NamedTuple):
    """One SVG file of one image."""

    bytes: int
    paths: int
    vertices: int
    psnr: float
    ssim: float


def measure(svg: str, image: NDArray[np.uint8]) -> Run:
    """Everything about an SVG file, beside the image `[H,W,3]` that it shows."""
    seen = render(svg, *image.shape[1::-1])
    return Run(len(svg.encode()), *shapes(svg), psnr(seen, image), ssim(seen, image))


def render(svg: str, width: int, height: int) -> NDArray[np.uint8]:
    """uint8 `[H,W,3]`, by resvg over white."""
    from resvg_py import svg_to_bytes

    file = svg_to_bytes(svg_string=svg, width=width, height=height, background="#ffffff", skip_system_fonts=True)
    return np.array(Image.open(io.BytesIO(file)).convert("RGB"))


def shapes(svg: str) -> tuple[int, int]:
    """How many paths there are, and how many vertices they have: the ends of their sides and curves."""
    paths = [element.get("d", "") for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}path")]
    return len(paths), sum(map(vertices, paths))


def vertices(path: str) -> int:
    """Of path data: points that are moved to, or where a line or a curve ends."""
    found = 0
    for command, numbers in _COMMAND.findall(path):
        if command.lower() != "z":
            found += len(_NUMBER.findall(numbers)) // NUMBERS[command.lower()]
    return found


def psnr(seen: NDArray[np.uint8], image: NDArray[np.uint8]) -> float:
    """Peak signal to noise ratio in sRGB, dB; at most 58.9 (`LEAST_ERROR`)."""
    error = float(np.mean((seen.astype(np.float64) - image) ** 2))
    return 10 * float(np.log10(255**2 / max(error, LEAST_ERROR)))


def ssim(seen: NDArray[np.uint8], image: NDArray[np.uint8]) -> float:
    """Structural similarity of the grey pictures, with the Gaussian window of its authors."""
    from skimage.metrics import structural_similarity

    grey = [np.asarray(Image.fromarray(picture).convert("L")) for picture in (seen, image)]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    return float(structural_similarity(*grey, **options))


def quality_at(size: float, sizes: Sequence[float], qualities: Sequence[float]) -> float | None:
    """The quality of a curve at a size in bytes, interpolated linearly over its logarithm; None outside the curve."""
    order = np.argsort(sizes, kind="stable")
    sizes, qualities = np.asarray(sizes)[order], np.asarray(qualities)[order]
    if not sizes[0] <= size <= sizes[-1]:
        return None
    return float(np.interp(np.log(size), np.log(sizes), qualities))
