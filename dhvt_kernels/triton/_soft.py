"""Soft assignment of patches of pixels: what the kernels of the soft operators share.

The pixels of a cell are split into patches, numbered `cell * parts + part` where cells count over the whole batch. A
program takes G = GROUP patches of P = PIXELS lanes, so that small cells fill it too. The candidates of a patch are its
own cell and eight others, in raster order. Numbers of a pixel are relative to the own centre, so that the own candidate
has score 0; the scores of the others are [8,G,P], so that the eight of a pixel lie in one thread.
"""

from typing import Any, NamedTuple

from torch import Tensor

from .._checks import accumulation_dtype
from ._checked import require
from ._language import cdiv, interpreted, jit, next_power_of_2, tl, triton_dtype
from ._math import divide

#: Pixels of a program. The interpreter pays by the operation, whatever its size.
LANES = 16384 if interpreted else 128
#: Pixels of a patch, at most.
PATCH = 128
#: A share below 2^LEAST_EXPONENT of the pixel's largest is 0, so that 1 / mass stays finite.
LEAST_EXPONENT = tl.constexpr(-80.0)


class Job:
    """What the kernels of a call share: arguments, in the order in which all of them begin, and constants."""

    def __init__(
        self,
        features: Tensor,
        mask: Tensor | None,
        coefficients: Tensor | None,
        cell: int,
        compactness: float,
        temperature: float,
        per_cell: Tensor | None = None,  # [B,L,...]
    ) -> None:
        batch, self.channels, height, width = features.shape
        self.dtype = accumulation_dtype(features.dtype)
        if coefficients is None:
            coefficients = features.new_full((2,), compactness, dtype=self.dtype)
            coefficients[1:].fill_(temperature)
        side = min(cell, max(height, width, 1))
        pixels = min(side, height) * min(side, width)
        in_patch = min(next_power_of_2(max(pixels, 1)), PATCH)
        self.cells_per_image = cdiv(height, side) * cdiv(width, side)
        if per_cell is not None:
            found = per_cell.shape[1]
            require(found == self.cells_per_image, f"expected L = {self.cells_per_image} cells; found {found}")
        self.cells = batch * self.cells_per_image
        self.parts = cdiv(pixels, in_patch)
        self.patches = self.cells * self.parts
        group = min(LANES // in_patch, next_power_of_2(max(self.patches, 1)))
        self.programs = cdiv(self.patches, group)
        self.metric = (coefficients.contiguous(), cell)
        self.geometry = (height, width, side, self.patches)
        self.arguments = (
            *self.metric,
            *self.geometry,
            features,
            *dense(mask),
            self.channels,
            *features.stride(),
        )
        self.constants: dict[str, Any] = {"ACC": triton_dtype(self.dtype), "GROUP": group, "PIXELS": in_patch}
        parts = min(next_power_of_2(max(self.parts, 1)), 64)
        lanes = min(LANES // parts, next_power_of_2(max(self.cells * (self.channels + 3), 1)))
        self.centers: dict[str, Any] = {"PIXELS": in_patch, "PARTS": parts, "LANES": lanes}

    def gathering(self, rows: int) -> int:
        """Programs that gather so many numbers of every centre."""
        return cdiv(rows * self.cells, self.centers["LANES"])

    def sums(self, rows: int) -> Tensor:
        """Workspace for the sums of so many rows: [rows,9,patches]."""
        return self.empty(rows, 9, self.patches)

    def empty(self, *size: int) -> Tensor:
        """In the accumulation dtype, on the device of the call."""
        return self.metric[0].new_empty(size)


def dense(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Contiguous, where they are."""
    return tuple(None if tensor is None else tensor.contiguous() for tensor in tensors)


class Metric(NamedTuple):
    """kappa^2 = (compactness / cell)^2 and 1 / temperature."""

    kappa2: Any
    inverse_temperature: Any


class Grid(NamedTuple):
    """Rows and columns of cells."""

    rows: Any
    columns: Any


class Place(NamedTuple):
    """Where the patches of a program are."""

    patch: Any  # [G] their numbers
    image: Any  # [G]
    row: Any  # [G] of their cells
    column: Any  # [G]
    y: Any  # [G,P] of their pixels
    x: Any  # [G,P]
    there: Any  # [G,P] the image has it
    inside: Any  # [G,P] the mask, too


class Around(NamedTuple):
    """The centres that patches have to do with, by their numbers among those of the batch."""

    own: Any  # [G]
    alive: Any  # [G] the own one is a candidate
    other: Any  # [8,G]
    near: Any  # [8,G] it is a candidate


@jit
def read_metric(coefficients, cell, ACC: tl.constexpr):
    """The metric, bounded so that nothing finite overflows; NaN stays."""
    kappa = divide(tl.load(coefficients), tl.cast(cell, tl.int64).to(ACC))
    temperature = tl.load(coefficients + 1)
    bound = tl.where(temperature < 1.2e-38, 1.2e-38, temperature).to(ACC)
    kappa2 = tl.where(kappa * kappa > 1e20, 1e20, kappa * kappa).to(ACC)
    return Metric(kappa2, divide(tl.full([], 1, ACC), bound))


@jit
def grid_of(height, width, side):
    """Rows and columns of cells."""
    return Grid((tl.cast(height, tl.int64) - 1) // side + 1, (tl.cast(width, tl.int64) - 1) // side + 1)


@jit
def parts_of(height, width, side, PIXELS: tl.constexpr):
    """Patches of a cell."""
    down = tl.minimum(tl.cast(side, tl.int64), tl.cast(height, tl.int64))
    right = tl.minimum(tl.cast(side, tl.int64), tl.cast(width, tl.int64))
    return (down * right - 1) // PIXELS + 1


@jit
def locate(height, width, side, patches, mask, GROUP: tl.constexpr, PIXELS: tl.constexpr):
    """This program's patches; a number beyond the last has the place of the last, and no pixel."""
    grid = grid_of(height, width, side)
    parts, pitch = parts_of(height, width, side, PIXELS), tl.minimum(tl.cast(side, tl.int64), tl.cast(width, tl.int64))
    patch = tl.program_id(0).to(tl.int64) * GROUP + tl.arange(0, GROUP)
    at = tl.minimum(patch, tl.cast(patches, tl.int64) - 1)
    cell, first = at // parts, at % parts * PIXELS
    image, row, column = cell // (grid.rows * grid.columns), cell // grid.columns % grid.rows, cell % grid.columns
    # In 32 bits: lanes from the beginning of the row of pixels that the patch begins in.
    lane = (first % pitch).to(tl.int32)[:, None] + tl.arange(0, PIXELS)[None, :]
    down = (first // pitch).to(tl.int32)[:, None] + lane // pitch.to(tl.int32)
    y = (row * side).to(tl.int32)[:, None] + down
    x = (column * side).to(tl.int32)[:, None] + lane % pitch.to(tl.int32)
    there = (patch < patches)[:, None] & (down < side) & (y < height) & (x < width)
    inside = there
    if mask is not None:
        place = place_of(Place(patch, image, row, column, y, x, there, there), height, width)
        inside = there & tl.load(mask + place, mask=there, other=0)
    return Place(patch, image, row, column, y, x, there, inside)


@jit
def place_of(here, height, width):
    """The numbers of the pixels [G,P] in a [B,H,W] array."""
    return (here.image[:, None] * height + here.y) * width + here.x


@jit
def middle_of(row, side, size, ACC: tl.constexpr):
    """The middle of the pixels of a row or column of cells, of the last of which the image may hold a part."""
    begin = row * side
    return (begin + tl.minimum(begin + side, tl.cast(size, tl.int64)) - 1).to(ACC) * 0.5


@jit
def other_candidates():
    """Numbers [8] of the candidates but for the own cell's, 4."""
    index = tl.arange(0, 8)
    return index + (index >= 4).to(tl.int32)


@jit
def neighbours(image, row, column, mass, height, width, side):
    """The centres of cells [G] and of those around them."""
    grid = grid_of(height, width, side)
    candidate = other_candidates()[:, None]
    r, c = row[None, :] + candidate // 3 - 1, column[None, :] + candidate % 3 - 1
    own = (image * grid.rows + row) * grid.columns + column
    other = (image[None, :] * grid.rows + r) * grid.columns + c
    near = (r >= 0) & (r < grid.rows) & (c >= 0) & (c < grid.columns)
    alive = own >= 0
    if mass is not None:
        near = near & (tl.load(mass + other, mask=near, other=0) > 0)
        alive = tl.load(mass + own) > 0
    return Around(own, alive, other, near)


@jit
def differences(numbers, around, size, c):
    """Number c of `size` of the own centre [G], and by how much it is larger in the others [8,G]; 0 where none is."""
    exists = c < size
    base = tl.load(numbers + around.own * size + c, mask=(around.own >= 0) & exists, other=0)
    there = tl.load(numbers + around.other * size + c, mask=around.near & exists, other=0)
    return base, tl.where(around.near, there - base[None, :], 0)


@jit
def load_four(at, c, channels, stride, mask, ACC: tl.constexpr):
    """Channels c to c + 3 of pixels [G,P], 0 beyond the last: four loads that are on their way together."""
    first = at + tl.cast(c, tl.int64) * stride
    return (
        tl.load(first, mask=mask, other=0).to(ACC),
        tl.load(first + stride, mask=mask & (c + 1 < channels), other=0).to(ACC),
        tl.load(first + 2 * tl.cast(stride, tl.int64), mask=mask & (c + 2 < channels), other=0).to(ACC),
        tl.load(first + 3 * tl.cast(stride, tl.int64), mask=mask & (c + 3 < channels), other=0).to(ACC),
    )


@jit
def offsets_of(here, image_stride, row_stride, column_stride):
    """Where the first channel of the pixels [G,P] lies in an image."""
    return (
        (here.image * image_stride)[:, None]
        + here.y * tl.cast(row_stride, tl.int64)
        + here.x * tl.cast(column_stride, tl.int64)
    )


@jit
def score_pixels(
    coefficients,
    cell,
    height,
    width,
    side,
    patches,
    features,
    mask,
    channels,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    centers,
    positions,
    mass,
    ACC: tl.constexpr,
    GROUP: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Place; Around; pointers to the first channel of the pixels and which of them take part [G,P]; half of the scores
    of the other candidates [8,G,P], where the own one has 0."""
    metric = read_metric(coefficients, cell, ACC)
    here = locate(height, width, side, patches, mask, GROUP, PIXELS)
    around = neighbours(here.image, here.row, here.column, mass, height, width, side)
    at = features + offsets_of(here, image_stride, row_stride, column_stride)
    score = tl.zeros([8, GROUP, PIXELS], ACC)
    lengths = tl.zeros([8, GROUP], ACC)
    squares = tl.zeros([GROUP, PIXELS], ACC)
    c = 0
    while c < channels:
        values = load_four(at, c, channels, channel_stride, here.inside, ACC)
        for i in tl.static_range(4):
            base, apart = differences(centers, around, channels, c + i)
            squares += values[i] * values[i]
            score += (values[i] - base[:, None])[None, :, :] * apart[:, :, None]
            lengths += apart * apart
        c += 4
    for axis in tl.static_range(2):
        base, apart = differences(positions, around, 2, axis)
        score += position(here, axis, base)[None, :, :] * (metric.kappa2 * apart)[:, :, None]
        lengths += metric.kappa2 * apart * apart
    score += tl.where(around.near, -0.5 * lengths, float("-inf"))[:, :, None]
    return here, around, at, here.inside & takes_part(squares), score


@jit
def takes_part(squares):
    """Whether the squared distances that a pixel enters cannot overflow; NaN and infinity never take part."""
    return squares * 16 < float("inf")


@jit
def position(here, axis: tl.constexpr, base):
    """y or x of the pixels relative to a place [G]: exact where they are near."""
    if axis == 0:
        return here.y.to(base.dtype) - base[:, None]
    else:
        return here.x.to(base.dtype) - base[:, None]


@jit
def share_pixels(score, around, used, inverse_temperature):
    """Shares of the other candidates [8,G,P] and of the own one [G,P]; 0 for pixels that take no part."""
    own_score = tl.where(around.alive, 0.0, float("-inf")).to(score.dtype)[:, None]
    best = tl.maximum(tl.max(score, 0), own_score)
    best = tl.where(best == float("-inf"), 0, best)  # there is no candidate
    scale = inverse_temperature * (2 * 1.4426950408889634)
    exponent, own_exponent = (score - best[None, :, :]) * scale, (own_score - best) * scale
    share = tl.where((exponent >= LEAST_EXPONENT) & used[None, :, :], tl.exp2(exponent), 0)
    own_share = tl.where((own_exponent >= LEAST_EXPONENT) & used, tl.exp2(own_exponent), 0)
    total = tl.sum(share, 0) + own_share
    inverse = divide(tl.full([], 1, score.dtype), tl.where(total > 0, total, 1))
    return share * inverse[None, :, :], own_share * inverse


@jit
def softmax_backward(share, own_share, grad, own_grad):
    """From the gradient of the shares to that of the scores, but for the temperature. A share of 0 has none, not even
    0 * infinity."""
    grad = tl.where(share > 0, grad * share, 0)
    own_grad = tl.where(own_share > 0, own_grad * own_share, 0)
    total = tl.sum(grad, 0) + own_grad
    return grad - share * total[None, :, :], own_grad - own_share * total


@jit
def label_pixels(score, here, around, used, columns):
    """The best candidate [G,P], the own cell first, then the lowest number; the own cell for a pixel that takes no
    part, -1 outside the mask."""
    best = tl.max(score, 0)
    own_score = tl.where(around.alive, 0.0, float("-inf"))[:, None]
    nearest = tl.min(tl.where(score == best[None, :, :], other_candidates()[:, None, None], 9), 0)
    nearest = tl.where(used & (best > own_score), nearest, 4)
    label = (here.row[:, None] + nearest // 3 - 1) * columns + here.column[:, None] + nearest % 3 - 1
    return tl.where(here.inside, label, -1).to(tl.int32)
