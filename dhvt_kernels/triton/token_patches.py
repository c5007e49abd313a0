"""Boxes of the image resampled to P x P, with the share of the samples that belong to the segment; and the transpose."""

from torch import Tensor

from .._checks import accumulation_dtype
from ._language import cdiv, jit, next_power_of_2, tl, triton_dtype
from ._launch import launch
from ._math import divide, wide
from ._tiles import WORK, channels_from, image_tile

#: Boxes that a tile of the backward pass looks at together.
_BOXES = 128


@jit
def _clamped(i, limit):
    """i inside [0, limit)."""
    return tl.minimum(tl.maximum(i, 0), wide(limit) - 1)


@jit
def _sample_at(first, last, size, i, limit, ACC: tl.constexpr):
    """Sample i of the `size` samples of [first, last]: its two pixels, inside [0, limit), and the share of the second.

    It lies at first + i (last - first) / (size - 1), for size = 1 in the middle. Whole numbers carry the position, so
    that a box of `size` pixels is copied exactly.
    """
    one = wide(size) == 1
    numerator = (last - first) * tl.where(one, 1, i)
    denominator = tl.where(one, 2, wide(size) - 1)
    whole = numerator // denominator
    rest = numerator - whole * denominator
    low, high = first + whole, first + whole + (rest > 0).to(tl.int64)
    share = divide(rest.to(ACC), tl.broadcast_to(denominator, rest.shape).to(ACC))
    return _clamped(low, limit), _clamped(high, limit), share


@jit
def _mix(a, b, share):
    """(1 - share) a + share b; exactly a for share = 0, even where b is not finite."""
    return tl.where(share > 0, (1 - share) * a + share * b, a)


@jit
def _load_box(boxes, task, exists):
    """ymin, xmin, ymax, xmax in 64 bits, and whether the box has pixels."""
    top = tl.load(boxes + task * 4, mask=exists, other=0).to(tl.int64)
    left = tl.load(boxes + task * 4 + 1, mask=exists, other=0).to(tl.int64)
    bottom = tl.load(boxes + task * 4 + 2, mask=exists, other=-1).to(tl.int64)
    right = tl.load(boxes + task * 4 + 3, mask=exists, other=-1).to(tl.int64)
    return top, left, bottom, right, (bottom >= top) & (right >= left)


@jit
def _patches_kernel(
    images,  # [B,C,H,W] by its strides
    labels,  # [B,H,W]
    boxes,  # [B,K,4]
    patches,  # [B,K,C,P,P]
    masks,  # [B,K,1,P,P]
    channels,
    height,
    width,
    num_segments,
    tasks,  # B K
    size,  # P
    down,  # parts of a patch
    across,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    ACC: tl.constexpr,
    BOXES: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A program resamples BOXES boxes, ROWS x COLUMNS samples of each; positions are found per row and per column.

    Reads 4 (b C + 4) bytes per sample, mostly from the L1 cache, and writes b (C + 1). Axes: box, channel, row, column.
    """
    program = tl.program_id(0).to(tl.int64)
    row = program // across % down * ROWS + tl.arange(0, ROWS)[None, None, :, None]
    column = program % across * COLUMNS + tl.arange(0, COLUMNS)[None, None, None, :]
    task = program // across // down * BOXES + tl.arange(0, BOXES)[:, None, None, None]
    top, left, bottom, right, filled = _load_box(boxes, task, task < tasks)
    y, next_y, share_y = _sample_at(top, bottom, size, row, height, ACC)
    x, next_x, share_x = _sample_at(left, right, size, column, width, ACC)
    written = (task < tasks) & (row < size) & (column < size)
    taken = written & filled & (height > 0) & (width > 0)
    image, k = task // num_segments, task % num_segments
    sample = row * size + column
    source = labels + image * height * width
    mask = _mix(
        _mix(
            (tl.load(source + y * width + x, mask=taken, other=-1) == k).to(ACC),
            (tl.load(source + y * width + next_x, mask=taken, other=-1) == k).to(ACC),
            share_x,
        ),
        _mix(
            (tl.load(source + next_y * width + x, mask=taken, other=-1) == k).to(ACC),
            (tl.load(source + next_y * width + next_x, mask=taken, other=-1) == k).to(ACC),
            share_x,
        ),
        share_y,
    )
    tl.store(masks + task * size * size + sample, mask, mask=written)
    y, next_y = y * row_stride, next_y * row_stride
    x, next_x = x * column_stride, next_x * column_stride
    first = 0
    while first < channels:
        c = channels_from(first, CHANNELS)[None, :, :, :]
        here = taken & (c < channels)
        source = images + image * image_stride + c * channel_stride
        patch = _mix(
            _mix(
                tl.load(source + y + x, mask=here, other=0).to(ACC),
                tl.load(source + y + next_x, mask=here, other=0).to(ACC),
                share_x,
            ),
            _mix(
                tl.load(source + next_y + x, mask=here, other=0).to(ACC),
                tl.load(source + next_y + next_x, mask=here, other=0).to(ACC),
                share_x,
            ),
            share_y,
        )
        target = patches + (task * channels + c) * size * size + sample
        tl.store(target, patch, mask=written & (c < channels))
        first += CHANNELS


def token_patches(image: Tensor, labels: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """patches[b,k,c] = the box (ymin, xmin, ymax, xmax) resampled; masks[b,k,0] = the same of labels == k."""
    batch, channels, height, width = image.shape
    num_segments = boxes.shape[1]
    tasks = batch * num_segments
    patches = image.new_empty(batch, num_segments, channels, size, size)
    masks = image.new_empty(batch, num_segments, 1, size, size)
    at_once = min(next_power_of_2(max(channels, 1)), 8)
    columns = min(next_power_of_2(size), 32)
    rows = min(next_power_of_2(size), max(WORK // (at_once * columns), 1))
    together = min(next_power_of_2(max(tasks, 1)), max(WORK // (at_once * rows * columns), 1))
    down, across = cdiv(size, rows), cdiv(size, columns)
    launch(
        _patches_kernel,
        cdiv(tasks, together) * down * across,
        image,
        image,
        labels.contiguous(),
        boxes.contiguous(),
        patches,
        masks,
        channels,
        height,
        width,
        num_segments,
        tasks,
        size,
        down,
        across,
        *image.stride(),
        ACC=triton_dtype(accumulation_dtype(image.dtype)),
        BOXES=together,
        CHANNELS=at_once,
        ROWS=rows,
        COLUMNS=columns,
    )
    return patches, masks


@jit
def _first_sample(first, last, size, pixel):
    """The first sample of [first, last] that lies at a pixel or after it; size where there is none."""
    extent, after = last - first, pixel - first
    steps = (after * (wide(size) - 1) + extent - 1) // tl.maximum(extent, 1)
    middle = tl.where(wide(size) == 1, (2 * after > extent).to(tl.int64), steps)
    past = tl.where(pixel > last, wide(size), middle)
    # Of one sample, what lies after the middle of the box is past it too.
    return tl.where(pixel <= first, 0, past)


@jit
def _samples_near(first, last, size, pixel, limit):
    """The first and one past the last of the samples that may touch a pixel; the border has those outside the image."""
    begin = tl.where(pixel == 0, 0, _first_sample(first, last, size, pixel - 1))
    end = tl.where(pixel == wide(limit) - 1, wide(size), _first_sample(first, last, size, pixel + 1))
    return begin, end


@jit
def _share_of(first, last, size, i, pixel, limit, ACC: tl.constexpr):
    """What sample i gives to a pixel."""
    low, high, share = _sample_at(first, last, size, i, limit, ACC)
    return tl.where(low == pixel, 1 - share, 0) + tl.where(high == pixel, share, 0)


@jit
def _collect_kernel(
    grad,  # [B,K,C,P,P]
    boxes,  # [B,K,4]
    out,  # [B,C,H,W]
    channels,
    height,
    width,
    num_segments,
    size,  # P
    blocks,  # of channels
    ACC: tl.constexpr,
    BOXES: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The transpose of the resampling, for a tile of pixels and some channels.

    It looks for the boxes that reach the tile, BOXES at a time, and takes them in their order: each pixel collects the
    samples around it, always in the same order, without atomics. Reads the gradients of a box about four times, from
    the caches, and writes b C bytes per pixel.
    """
    program = tl.program_id(0).to(tl.int64)
    image, y, x, here = image_tile(program // blocks, height, width, ROWS, COLUMNS)
    c = channels_from(program % blocks * CHANNELS, CHANNELS)
    wanted = here[None, :, :] & (c < channels)
    upper, lower = tl.min(y), tl.max(y)
    leftmost, rightmost = tl.min(x), tl.max(x)
    total = tl.zeros([CHANNELS, ROWS, COLUMNS], ACC)
    base = 0
    while base < num_segments:
        k = wide(base) + tl.arange(0, BOXES)
        top, left, bottom, right, filled = _load_box(boxes, image * num_segments + k, k < num_segments)
        reaches = filled & (_clamped(top, height) <= lower) & (_clamped(bottom, height) >= upper)
        reaches = reaches & (_clamped(left, width) <= rightmost) & (_clamped(right, width) >= leftmost)
        found = tl.min(tl.where(reaches, k, num_segments))
        while found < num_segments:
            task = image * num_segments + found
            top, left, bottom, right, _ = _load_box(boxes, task, True)
            first_row, end_row = _samples_near(top, bottom, size, y, height)
            first_column, end_column = _samples_near(left, right, size, x, width)
            down, across = tl.max(end_row - first_row), tl.max(end_column - first_column)
            i = down * 0
            while i < down:
                row = first_row + i
                of_row = tl.where(row < end_row, _share_of(top, bottom, size, row, y, height, ACC), 0)
                j = across * 0
                while j < across:
                    column = first_column + j
                    of_column = _share_of(left, right, size, column, x, width, ACC)
                    share = of_row * tl.where(column < end_column, of_column, 0)
                    sample = ((task * channels + c) * size + row[None, :, :]) * size + column[None, :, :]
                    touched = wanted & (share > 0)[None, :, :]
                    value = tl.load(grad + sample, mask=touched, other=0).to(ACC)
                    total += tl.where(touched, share[None, :, :] * value, 0)
                    j += 1
                i += 1
            found = tl.min(tl.where(reaches & (k > found), k, num_segments))
        base += BOXES
    tl.store(out + ((image * channels + c) * height + y[None, :, :]) * width + x[None, :, :], total, mask=wanted)


def token_patches_backward(grad_patches: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """The transpose of token_patches in the image: every sample's gradient goes to its four pixels."""
    batch, num_segments, channels, size, _ = grad_patches.shape
    dtype = accumulation_dtype(grad_patches.dtype)
    out = grad_patches.new_empty(batch, channels, height, width)
    at_once = min(next_power_of_2(max(channels, 1)), 8)
    columns = min(next_power_of_2(max(width, 1)), 32)
    rows = min(next_power_of_2(max(height, 1)), WORK // (at_once * columns))
    blocks = cdiv(channels, at_once)
    launch(
        _collect_kernel,
        batch * cdiv(height, rows) * cdiv(width, columns) * blocks,
        grad_patches,
        grad_patches.contiguous(),
        boxes.contiguous(),
        out,
        channels,
        height,
        width,
        num_segments,
        size,
        blocks,
        ACC=triton_dtype(dtype),
        BOXES=_BOXES,
        CHANNELS=at_once,
        ROWS=rows,
        COLUMNS=columns,
    )
    return out
