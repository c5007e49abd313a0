"""The ways to vectorize that `benchmarks.vectorize` compares: from an image and a setting to an SVG file's text."""

import importlib.metadata
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import dhvt_kernels as dk

from .superpixel_methods import tensor

Pixels = NDArray[np.uint8]  # [H,W,3], sRGB
Setting = dict[str, Any]
Draw = Callable[[Setting], str]


class Method(NamedTuple):
    """A curve: one run for each setting."""

    name: str
    title: str
    settings: dict[str, Setting]
    """By the label of the run."""
    prepare: Callable[[Pixels], Draw]
    """What is done once per image, and not timed."""
    package: str | None = None
    """The peer's package, as pip calls it."""

    @property
    def ours(self) -> bool:
        return self.package is None

    def missing(self) -> bool:
        return self.package is not None and program_version(self.package) is None


def program_version(package: str) -> str | None:
    """Of a peer, None where it is missing. The program `potrace` goes before its port to Python, `potracer`."""
    if package == "potracer" and shutil.which("potrace"):
        said = subprocess.run(["potrace", "--version"], capture_output=True, text=True).stdout
        return said.split(". ")[0].removeprefix("potrace ") + " (program)"
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# --- ours -------------------------------------------------------------------------------------------------------------

BUDGETS: dict[str, Setting] = {f"n = {2**power}": {"max_tokens": 2**power} for power in range(3, 14)}
#: Of `to_svg`: a curve each. The first is the one that is timed.
OURS: dict[str, tuple[str, Setting]] = {
    "curves": ("curves", {"tolerance": 0.3, "curves": True}),
    "gradients": ("curves and gradients", {"tolerance": 0.5, "curves": True, "gradients": True}),
    "polygons": ("polygons", {"tolerance": 1.0}),
    "exact": ("exact outlines", {}),
}


def hierarchy(image: Pixels) -> dk.Hierarchy:
    return dk.vector_hierarchy(tensor(image)[0])


def cut(tree: dk.Hierarchy, budget: int) -> dk.Partition:
    """At most so many segments."""
    return tree.cut(max_tokens=budget)[0]


def ours(options: Setting) -> Callable[[Pixels], Draw]:
    """One hierarchy per image, cut at every budget; cutting and drawing are timed."""

    def prepare(image: Pixels) -> Draw:
        pixels, tree = tensor(image)[0], hierarchy(image)
        return lambda setting: dk.to_svg(pixels, cut(tree, setting["max_tokens"]), **options)

    return prepare


# --- vtracer ----------------------------------------------------------------------------------------------------------

#: Those of its command that are for colours (cmdapp/src/config.rs), with the command's two decimals.
PRESETS: dict[str, Setting] = {
    "photo": {"filter_speckle": 10, "color_precision": 8, "layer_difference": 48, "corner_threshold": 180},
    "poster": {"filter_speckle": 4, "color_precision": 8, "layer_difference": 16, "corner_threshold": 60},
}
#: From coarse to fine: filter_speckle and layer_difference.
LEVELS: dict[str, Setting] = {
    f"{speckle} / {difference}": {"filter_speckle": speckle, "color_precision": 8, "layer_difference": difference}
    for speckle, difference in ((16, 128), (16, 64), (10, 48), (6, 32), (4, 16), (1, 4))
}
#: The best curve for its splines: neither whole pixels nor long pieces cost it as much quality as they save bytes.
COMPACT: Setting = {"path_precision": 0, "length_threshold": 10.0}


def vtracer(**options: Any) -> Callable[[Pixels], Draw]:
    """From a PNM file in memory: of all ways into vtracer the one that costs it least time."""

    def prepare(image: Pixels) -> Draw:
        from vtracer import convert_raw_image_to_svg

        file = b"P6 %d %d 255\n" % image.shape[1::-1] + image.tobytes()
        return lambda setting: convert_raw_image_to_svg(file, img_format="pnm", **options, **setting)

    return prepare


# --- potrace ----------------------------------------------------------------------------------------------------------

COLORS: dict[str, Setting] = {f"{number} colours": {"colors": number} for number in (4, 8, 16, 32)}
UNITS = 10  # per pixel, as potrace writes them


def potrace(corners: float) -> Callable[[Pixels], Draw]:
    """Colour layers, from light to dark: each is traced with all that are darker, and lies on the lighter ones.

    Of the orders light to dark gives the best quality and size. `corners` is potrace's alphamax: 1 curves, 0 polygons.
    """

    def prepare(image: Pixels) -> Draw:
        return lambda setting: _layers(image, setting["colors"], corners)

    return prepare


def _layers(image: Pixels, colors: int, corners: float) -> str:
    height, width = image.shape[:2]
    quantized = Image.fromarray(image).quantize(
        colors, method=Image.Quantize.MEDIANCUT, kmeans=4, dither=Image.Dither.NONE
    )
    palette = np.array(quantized.getpalette(), np.uint8).reshape(-1, 3)
    index = np.asarray(quantized)
    order = np.argsort(-(palette @ [0.299, 0.587, 0.114]), kind="stable")
    order = order[np.isin(order, index)]
    rank = np.zeros(len(palette), np.uint8)
    rank[order] = np.arange(len(order))
    layer = rank[index]
    paths = [f"M0 0h{UNITS * width}v{UNITS * height}h-{UNITS * width}z"]
    trace = _trace_by_command if shutil.which("potrace") else _trace_by_package
    paths += [trace(layer >= level, corners) for level in range(1, len(order))]
    fills = (f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette[order].tolist())
    body = "".join(f'<path fill="{fill}" d="{path}"/>' for fill, path in zip(fills, paths, strict=True) if path)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
        f'<g transform="matrix({1 / UNITS} 0 0 {-1 / UNITS} 0 {height})">{body}</g></svg>'
    )


def _trace_by_command(mask: NDArray[np.bool_], corners: float) -> str:
    """The path of a mask by the program `potrace`."""
    bitmap = b"P4\n%d %d\n" % mask.shape[::-1] + np.packbits(mask, axis=1).tobytes()
    command = ["potrace", "--svg", "--alphamax", str(corners), "--unit", str(UNITS), "--output", "-"]
    written = subprocess.run(command, input=bitmap, capture_output=True, check=True).stdout.decode()
    return " ".join(re.findall(r'\bd="([^"]*)"', written)).replace("\n", " ")


def _trace_by_package(mask: NDArray[np.bool_], corners: float) -> str:
    """The same by its port to Python, which takes a hundred times as long."""
    from potrace import Bitmap

    def point(at: Any) -> str:
        return f"{round(UNITS * at.x)} {round(UNITS * at.y)}"

    path = ""
    for curve in Bitmap(~np.flipud(mask)).trace(alphamax=corners):  # it traces what is black
        path += "M" + point(curve.start_point)
        for segment in curve:
            if segment.is_corner:
                path += f"L{point(segment.c)} {point(segment.end_point)}"
            else:
                path += f"C{point(segment.c1)} {point(segment.c2)} {point(segment.end_point)}"
        path += "z"
    return path


METHODS = (
    *(Method(name, f"ours, {title}", BUDGETS, ours(options)) for name, (title, options) in OURS.items()),
    Method("presets", "vtracer, presets", PRESETS, vtracer(path_precision=2), "vtracer"),
    Method("stacked_spline", "vtracer, stacked splines", LEVELS, vtracer(**COMPACT), "vtracer"),
    Method("stacked_polygon", "vtracer, stacked polygons", LEVELS, vtracer(mode="polygon"), "vtracer"),
    Method("stacked_pixel", "vtracer, stacked pixels", LEVELS, vtracer(mode="none"), "vtracer"),
    Method("cutout_spline", "vtracer, cut-out splines", LEVELS, vtracer(hierarchical="cutout", **COMPACT), "vtracer"),
    Method(
        "cutout_polygon", "vtracer, cut-out polygons", LEVELS, vtracer(hierarchical="cutout", mode="polygon"), "vtracer"
    ),
    Method("potrace", "potrace, curves", COLORS, potrace(1), "potracer"),
    Method("potrace_polygon", "potrace, polygons", COLORS, potrace(0), "potracer"),
)
