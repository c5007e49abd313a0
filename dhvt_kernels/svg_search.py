"""SVG images of a given size or quality."""

import io
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._checks import check_float, check_int
from .hierarchy import Hierarchy
from .imaging import open_picture
from .partition import Partition
from .vectorize import to_svg


class Vectorized(NamedTuple):
    """An SVG image, and the partition that it shows."""

    svg: str
    partition: Partition


def render_svg(svg: str, *, background: str = "#fff") -> Tensor:
    """Render an SVG image at its own size, with resvg.

    Args:
        svg: the text of the file.
        background: the colour below it, as in CSS.

    Returns:
        uint8 [3,H,W].

    Raises:
        ModuleNotFoundError: the package resvg-py is not there: `pip install 'dhvt_kernels[svg]'`.
        ValueError: not an SVG image, or no colour.

    Example:
        >>> import dhvt_kernels as dk
        >>> red = '<path fill="red" d="M0 0h1v1h-1z"/>'
        >>> svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="2" height="1">{red}</svg>'
        >>> dk.render_svg(svg)[:, 0].tolist()
        [[255, 255], [0, 255], [0, 255]]
    """
    try:
        import resvg_py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("rendering needs resvg-py: pip install 'dhvt_kernels[svg]'") from error
    try:
        data = bytes(resvg_py.svg_to_bytes(svg_string=svg, background=background))
    except ValueError as error:
        raise ValueError(f"svg: cannot be rendered: {error}") from error
    with open_picture(io.BytesIO(data)) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()


def svg_psnr(svg: str, image: Tensor) -> float:
    """Peak signal-to-noise ratio of an SVG image, rendered at its own size over white.

        10 log10(255^2 / mean((rendering - image)^2))

    Args:
        svg: the text of the file.
        image: the original of that size, [3,H,W] or [4,H,W], sRGB, floating point in [0, 1] or uint8; over white, too.

    Returns:
        Decibels; infinite where both are equal.

    Raises:
        ModuleNotFoundError, ValueError: as of `render_svg`; or the sizes differ.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> image = torch.rand(3, 32, 48)
        >>> svg = dk.to_svg(image, dk.vector_hierarchy(image).cut(max_tokens=4))
        >>> 0 < dk.svg_psnr(svg, image) < 20
        True
    """
    values = image.detach().cpu().double() * (255 if image.is_floating_point() else 1)
    if values.shape[0] == 4:
        values = 255 + (values[:3] - 255) * values[3:] / 255
    rendering = render_svg(svg)
    if rendering.shape != values.shape:
        raise ValueError(f"image: expected {list(rendering.shape)}, the size of the SVG; found {list(values.shape)}")
    error = float((rendering - values).square().mean())
    return 10 * math.log10(255**2 / error) if error > 0 else math.inf


def search_svg(
    image: Tensor, hierarchy: Hierarchy, *, size: int | None = None, psnr: float | None = None, **outlines: Any
) -> Vectorized:
    """The cut of a hierarchy whose SVG image has a given size, or a given quality.

    Args:
        image: [3,H,W] or [4,H,W], as for `to_svg`.
        hierarchy: of this one image, such as `vector_hierarchy(image)`.
        size: the most bytes of the file; as many segments as they allow.
        psnr: the least `svg_psnr` in dB; as few segments as it takes.
        **outlines: `tolerance`, `curves`, `gradients` and `precision` of `to_svg`.

    Returns:
        `Vectorized(svg, partition)`.

    Raises:
        TypeError: not exactly one of `size` and `psnr`.
        ValueError: no cut is so small, or so good; the message says what is.
        ModuleNotFoundError: for `psnr`, as of `render_svg`.

    Note:
        Halves the range of budgets again and again: about 14 cuts. Size and quality rise with the budget nearly
        everywhere, so another budget may do a little better.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> image = torch.rand(3, 32, 48)
        >>> len(dk.search_svg(image, dk.vector_hierarchy(image), size=2000).svg) <= 2000
        True
    """

    def at(budget: int) -> Vectorized:
        partition = hierarchy.cut(max_tokens=budget)
        return Vectorized(to_svg(image, partition, **outlines), partition)

    most = hierarchy.num_leaves
    if size is not None and psnr is None:
        limit = check_int("size", size, 1)
        result = at(1)
        if len(result.svg) > limit:
            raise ValueError(f"size: expected at least {len(result.svg)} bytes, which one segment takes; found {limit}")
        return _farthest(at, lambda found: len(found.svg) <= limit, result, 1, most + 1)
    if psnr is not None and size is None:
        wanted = check_float("psnr", psnr)
        result = at(most)
        reached = svg_psnr(result.svg, image)
        if reached < wanted:
            raise ValueError(f"psnr: expected at most {reached:.2f} dB, which {most} segments reach; found {wanted:g}")
        return _farthest(at, lambda found: svg_psnr(found.svg, image) >= wanted, result, most, 0)
    raise TypeError("size, psnr: expected one of both")


def _farthest(
    at: Callable[[int], Vectorized], good: Callable[[Vectorized], bool], result: Vectorized, inside: int, outside: int
) -> Vectorized:
    """The last result that is good on the way from the budget `inside`, whose result is, to `outside`, whose is not."""
    while abs(outside - inside) > 1:
        low, high = sorted((inside, outside))
        middle = max(math.isqrt(max(low, 1) * high), low + 1)
        candidate = at(middle)
        if good(candidate):
            inside, result = middle, candidate
        else:
            outside = middle
    return result
