"""Connected sets of pixels by union-find. A set is known by its root, its first pixel in raster order."""

from typing import Any

import torch
from torch import Tensor

from ._lanes import lanes
from ._language import cdiv, jit, tl
from ._launch import launch

BLOCK = 2048
WARPS = 16
#: As in csrc/connected_components.h: features are summed strip by strip, so it is part of the result's last bit.
STRIP_ROWS = 32


@jit
def pixels_of_program(pixels, total, BLOCK: tl.constexpr):
    """Pixels of the batch, which of them exist, the first pixel of each one's image, and its place behind that."""
    at, here = lanes(total, BLOCK)
    place = at % pixels
    return at, here, at - place, place.to(tl.int32)


def launch_pixels(kernel: Any, labels: Tensor, *arguments: Any, **constants: Any) -> None:
    """Runs a kernel with one lane per pixel of [B,H,W], which takes H W and B H W as its last arguments."""
    sizes = labels[0].numel(), labels.numel()
    launch(kernel, cdiv(sizes[1], BLOCK), labels, *arguments, *sizes, warps=WARPS, BLOCK=BLOCK, **constants)


@jit
def run_begin(begins, BLOCK: tl.constexpr):
    """The lane at which the run of each lane begins, by jumps of doubling length; the first lane begins one."""
    lane = tl.arange(0, BLOCK)
    begin = tl.where(begins | (lane == 0), lane, lane - 1)
    reach = 1
    while reach < BLOCK:
        begin = tl.gather(begin, begin, 0)
        reach *= 2
    return begin


@jit
def _label(labels, at, here, ANY: tl.constexpr):
    """Labels, -1 for none; all that there are count as 0 where any will do."""
    label = tl.maximum(tl.load(labels + at, mask=here, other=-1), -1)
    if ANY:
        label = tl.minimum(label, 0)
    return label


@jit
def _root(forest, node, here):
    """The roots of nodes. Nodes on the way get their grandparents as parents, so that ways stay short.

    Other programs may change the forest meanwhile: what is read may be old, but always leads up in the same set.
    """
    up = tl.load(forest + node, mask=here, other=0)
    moves = here & (up != node)
    while tl.max(moves.to(tl.int32), 0) > 0:
        above = tl.load(forest + up, mask=moves, other=0)
        tl.store(forest + node, above, mask=moves)
        node = tl.where(moves, above, node)
        up = tl.load(forest + node, mask=moves, other=0)
        moves = moves & (up != node)
    return node


@jit
def _unite(forest, a, b, here):
    """Joins the sets of a and b: the higher root gets the lower one as its parent.

    Where it was a root no longer, its parent before is joined to the lower one in the next turn.
    """
    while tl.max(here.to(tl.int32), 0) > 0:
        a, b = _root(forest, a, here), _root(forest, b, here)
        here = here & (a != b)
        high, low = tl.maximum(a, b), tl.minimum(a, b)
        before = tl.atomic_min(forest + high, low, mask=here, sem="relaxed")
        here = here & (before != high)
        a, b = tl.where(here, before, low), low


@jit
def _run_kernel(
    labels,  # [B,H,W]
    parent,  # [B,H,W]
    width,
    pixels,  # H W
    total,  # B H W
    ANY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One lane per pixel: the first pixel of its run in this block, or the pixel before that if the run began earlier.

    Reads 4 bytes per pixel (twice, from the cache) and writes 4.
    """
    at, here, _, place = pixels_of_program(pixels, total, BLOCK)
    own = _label(labels, at, here, ANY)
    left = _label(labels, at - 1, here & (at % width > 0), ANY)
    begins = (own < 0) | (own != left)
    lane = tl.arange(0, BLOCK)
    up = place - lane + run_begin(begins, BLOCK)
    up = tl.where((lane == 0) & (begins == 0), place - 1, up)
    tl.store(parent + at, tl.where(own < 0, -1, up), mask=here)


@jit
def _unite_kernel(
    labels,  # [B,H,W]
    starts,  # [B,H,W] where to begin in the forest
    parent,  # [B,H,W] the forest
    width,
    pixels,  # H W
    rows,  # the highest row, in steps
    total,  # B rows W
    STEP: tl.constexpr,  # rows, from one row to the next that is joined to the row above it
    ANY: tl.constexpr,
    STRIP_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One lane per pixel with one above it: joins the two if they have one label, unless those to the left did.

    Steps of one row leave out the borders of strips, and steps of STRIP_ROWS are only these. Reads 4 bytes per pixel
    (four times, from the cache), and what leads to the roots where runs touch.
    """
    index, here = lanes(total, BLOCK)
    x, y = index % width, (index // width % rows + 1) * STEP
    here = here & ((y % STRIP_ROWS == 0) == (STEP == STRIP_ROWS))
    base = index // width // rows * pixels
    at = base + y * width + x
    own = _label(labels, at, here, ANY)
    above = _label(labels, at - width, here, ANY)
    left = _label(labels, at - 1, here & (x > 0), ANY)
    left_above = _label(labels, at - 1 - width, here & (x > 0), ANY)
    joins = (own >= 0) & (own == above) & ((left != own) | (left_above != own))
    a = tl.load(starts + at, mask=joins, other=0)
    b = tl.load(starts + at - width, mask=joins, other=0)
    _unite(parent + base, a, b, joins)


@jit
def _root_kernel(
    starts,  # [B,H,W] where to begin in the forest, -1 for no segment
    parent,  # [B,H,W] the forest
    root,  # [B,H,W]
    pixels,  # H W
    total,  # B H W
    BLOCK: tl.constexpr,
):
    """One lane per pixel: reads 4 bytes and what leads to the root, and writes 4."""
    at, here, base, _ = pixels_of_program(pixels, total, BLOCK)
    node = tl.load(starts + at, mask=here, other=-1)
    tl.store(root + at, _root(parent + base, node, node >= 0), mask=here)


def connected_sets(labels: Tensor, any_label: bool) -> tuple[Tensor, Tensor]:
    """Roots [B,H,W] of each pixel's connected set within its strip of rows, and within the image; -1 for no segment.

    Sets have one label, or are of pixels with `any_label`.
    """
    batch, height, width = labels.shape
    parent, part, component = (torch.empty_like(labels) for _ in range(3))
    launch_pixels(_run_kernel, labels, labels, parent, width, ANY=any_label)
    for step, starts, root in ((1, parent, part), (STRIP_ROWS, part, component)):
        rows = (height - 1) // step
        joined = batch * rows * width
        launch(
            _unite_kernel,
            cdiv(joined, BLOCK),
            labels,
            labels,
            starts,
            parent,
            width,
            height * width,
            rows,
            joined,
            STEP=step,
            ANY=any_label,
            STRIP_ROWS=STRIP_ROWS,
            BLOCK=BLOCK,
            warps=WARPS,
        )
        launch_pixels(_root_kernel, labels, starts, parent, root)
    return part, component
