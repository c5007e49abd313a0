"""A page on which a slider moves through every budget of a hierarchy."""

import base64
import html
import io
import json
import re
import zlib
from importlib import resources
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..fills import fit_fills
from ..hierarchy import Hierarchy
from ..imaging import check_picture
from ..ops import color_sums, trace
from ..partition import Partition
from .nested import nested_cuts

#: Larger pictures are refused: the page redraws all pixels at every step of the slider, and holds them in its file.
MAX_PIXELS = 1 << 21
#: The finest cut that a page shows has at most this many segments.
MAX_SEGMENTS = 4096


def to_html(image: Tensor, hierarchy: Hierarchy, *, title: str = "picture") -> str:
    """One self-contained HTML page on which a slider moves through every budget of a hierarchy.

    The page shows the optimal cut at every strength s, the nodes v with

        lower_v <= s < upper_v    (`Hierarchy.scale_set`)

    from the finest that has at most 4,096 segments to the coarsest: the segments in their mean colours or with a linear
    gradient each, their borders, and number, criterion and PSNR of each cut. It saves what it shows as SVG, and opens
    at the cut that `hierarchy.cut()` makes. docs/viewer.md describes it.

    Args:
        image: [3,H,W] or [1,3,H,W], sRGB, floating point in [0, 1] or uint8; at most 2^21 pixels.
        hierarchy: of this one image.
        title: what the page is called, and the files that it saves.

    Returns:
        The text of an HTML file, which loads nothing: it works offline, in the browsers of 2023 and later.

    Raises:
        TypeError: the image is neither floating point nor uint8.
        ValueError: image and hierarchy are not of one image of one size; too many pixels; no segment, or a tree that
            does not merge to 4,096; `select="greedy"`, whose cuts are not nested.

    Note:
        Runs on the CPU, without gradient, deterministic.

    Example:
        >>> import torch
        >>> import dhvt_kernels as dk
        >>> image = torch.rand(3, 32, 48)
        >>> page = dk.to_html(image, dk.Tokenizer().hierarchy(image[None]), title="noise")
        >>> page.startswith("<!doctype html>"), "<title>noise</title>" in page
        (True, True)
    """
    height, width = hierarchy.leaves.shape[1:]
    if len(hierarchy) != 1:
        raise ValueError(f"hierarchy: expected that of one image; found {len(hierarchy)} images")
    if height * width > MAX_PIXELS:
        raise ValueError(f"image: expected at most {MAX_PIXELS:,} pixels, scale it down; found {width} x {height}")
    selection = hierarchy.selection
    if selection.select != "optimal":
        raise ValueError(f'select: expected "optimal"; found {selection.select!r}, whose cuts are not nested')
    with torch.no_grad():
        finest = hierarchy.cut(max_tokens=MAX_SEGMENTS, strength=0.0)
        segments = int(finest.counts[0])
        if not 0 < segments <= MAX_SEGMENTS:
            raise ValueError(f"hierarchy: expected cuts of 1 to {MAX_SEGMENTS:,} segments; found {segments:,}")
        picture = check_picture(image, finest)
        arrays = {**_cuts(picture, hierarchy, finest), **_shapes(finest)}
    facts = {
        "name": title,
        "width": width,
        "height": height,
        "criterion": "bic" if selection.criterion == "fixed" else selection.criterion,
        "chosen": min(int(hierarchy.cut().counts[0]), segments),
        "finest": int(hierarchy.cut(strength=[0.0], max_tokens=[hierarchy.num_leaves])[0].counts[0]),
        "arrays": [[name, array.dtype.kind, array.size] for name, array in arrays.items()],
    }
    return _page(
        title=html.escape(title),
        facts=json.dumps(facts).replace("<", "\\u003c"),  # </script> would end them
        data=_base64(zlib.compress(b"".join(array.tobytes() for array in arrays.values()), 9)),
        picture=_data_uri(picture),
    )


def _cuts(picture: Tensor, hierarchy: Hierarchy, finest: Partition) -> dict[str, NDArray[Any]]:
    """The tree above the finest cut, what its nodes are filled with, and the figures of every cut."""
    cuts = nested_cuts(hierarchy, finest)
    segments = int(finest.counts[0])
    sums = color_sums(picture, finest.labels[0].cpu(), num_segments=segments).numpy()
    fills = fit_fills(cuts.sums_up(sums))
    # The page shows mean colours of 8 bits.
    colors = np.rint(fills.mean)
    error = fills.error + fills.count * ((fills.mean - colors) ** 2).sum(1)
    likelihood, penalty = (term[0].double().cpu().numpy()[cuts.node] for term in hierarchy.terms())
    selection = hierarchy.selection
    criterion = likelihood + (1.0 if selection.criterion == "fixed" else selection.strength) * penalty
    ones = np.ones(len(cuts.node))
    return {
        "parent": cuts.parent,
        "colors": (colors.astype(np.uint32) << np.array([0, 8, 16])).sum(1, dtype=np.uint32) | np.uint32(255 << 24),
        "fills": np.concatenate([fills.mean, fills.slope, fills.direction, fills.centroid], 1).astype(np.float32),
        "active": cuts.active,
        "tokens": cuts.totals(ones).round().astype(np.int32),
        "strength": cuts.strength,
        "criterion": cuts.totals(criterion).astype(np.float32),
        "meanPsnr": _psnr(cuts.totals(error), picture.numel()),
        "gradientPsnr": _psnr(cuts.totals(fills.linear_error), picture.numel()),
    }


def _psnr(error: NDArray[np.float64], samples: int) -> NDArray[np.float32]:
    """Decibels of sums of squared errors; infinite where there is none."""
    with np.errstate(divide="ignore"):
        return (10 * np.log10(255.0**2 * samples / np.maximum(error, 0))).astype(np.float32)


def _shapes(finest: Partition) -> dict[str, NDArray[Any]]:
    """The label map of the finest cut and its boundaries."""
    labels = finest.labels[0].cpu()
    arcs = trace(labels)
    points, offsets = arcs.points.numpy(), arcs.offsets.numpy()
    starts, ends = offsets[:-1], offsets[1:] - 1
    # Sides alternate between horizontal and vertical. What leads from one arc to the next is no side.
    sides = np.delete(np.diff(points, axis=0).sum(1), ends[:-1])
    return {
        # The difference from the pixel above, mostly 0, compresses best.
        "labels": np.diff(labels.numpy(), axis=0, prepend=np.int32(0)),
        "left": arcs.left.numpy(),
        "right": arcs.right.numpy(),
        "start": points[starts],
        "level": (points[starts, 0] == points[starts + 1, 0]).astype(np.int32),
        "length": (ends - starts).astype(np.int32),
        "sides": sides.astype(np.int32),
    }


def _data_uri(picture: Tensor) -> str:
    """The picture without loss, or as JPEG where that is smaller."""
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    files = {}
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": 92, "subsampling": 0})):
        file = io.BytesIO()
        image.save(file, kind, **options)
        files[kind] = file.getvalue()
    kind = min(files, key=lambda kind: len(files[kind]))
    return f"data:image/{kind};base64,{_base64(files[kind])}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _page(**parts: str) -> str:
    """page.html with every {{part}} filled in; style and script are files beside it."""
    files = resources.files(__name__)
    parts["style"] = files.joinpath("page.css").read_text("utf-8")
    parts["script"] = files.joinpath("page.js").read_text("utf-8")
    page = files.joinpath("page.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], page)
