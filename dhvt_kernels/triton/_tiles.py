"""How the pixels of images are shared out: one program takes a tile of pixels."""

from typing import NamedTuple

from ._language import cdiv, interpreted, jit, next_power_of_2, tl
from ._math import wide

#: Numbers that a program has in hand at a time: eight per thread, as more would leave few programs on a processor.
WORK_ON_GPU = 1 << 10
#: The same where programs run. The interpreter needs as long for few as for many.
WORK = 1 << 17 if interpreted else WORK_ON_GPU


class Tiles(NamedTuple):
    """Tiles of rows x columns pixels that cover a batch of images, and the channels that are in hand at a time."""

    number: int
    channels: int
    rows: int
    columns: int


def tiles_of(batch: int, channels: int, height: int, width: int) -> Tiles:
    """Tiles up to 64 pixels wide: lines of the memory are read whole, and little hangs over the border."""
    channels = min(next_power_of_2(max(channels, 1)), 32)
    columns = min(next_power_of_2(max(width, 1)), 64, WORK // channels)
    rows = min(next_power_of_2(max(height, 1)), max(WORK // (channels * columns), 1))
    return Tiles(batch * cdiv(height, rows) * cdiv(width, columns), channels, rows, columns)


@jit
def image_tile(tile, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The image of a tile, its rows y [ROWS,1] and columns x [1,COLUMNS], and which pixels exist [ROWS,COLUMNS]."""
    down = (wide(height) + ROWS - 1) // ROWS
    across = (wide(width) + COLUMNS - 1) // COLUMNS
    y = tile // across % down * ROWS + tl.arange(0, ROWS)[:, None]
    x = tile % across * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return tile // across // down, y, x, (y < height) & (x < width)


@jit
def channels_from(first, CHANNELS: tl.constexpr):
    """Channels [CHANNELS,1,1], to stand before the rows and columns of a tile."""
    return wide(first) + tl.arange(0, CHANNELS)[:, None, None]


@jit
def row_of_pixel(labels, image, y, x, here, height, width, num_segments):
    """A pixel's row in a table [B,K,...], its place in [B,H,W], and whether it has a segment."""
    place = (image * height + y) * width + x
    k = tl.load(labels + place, mask=here, other=-1)
    return image * num_segments + k, place, (k >= 0) & (k < num_segments)
