"""Boxes of the image resampled to P x P, with the share of the samples of the segment; and the transpose."""

from torch import Tensor

from .._checks import accumulation_dtype
from ._checked import checked, require
from ._language import cdiv, jit, next_power_of_2, tl, triton_dtype
from ._launch import launch
from ._math import divide, wide
from ._tiles import WORK, channels_from, image_tile

#: Boxes among which a tile of the backward pass looks for those that reach it.
_LISTED = 128


@jit
def _sample_at(first, last, size, i, limit, ACC: tl.constexpr):
    """Sample i of the `size` samples of [first, last]: its two pixels, inside [0, limit), and the share of the second.

    It lies at first + i (last - first) / (size - 1), for size = 1 in the middle. Whole numbers carry the position, so
    that a box of `size` pixels is copied exactly. All are 64 bits wide.
    """
    numerator = (last - first) * tl.where(size == 1, 1, i)
    denominator = tl.where(size == 1, 2, size - 1)
    whole = numerator // denominator
    rest = numerator - whole * denominator
    low = tl.minimum(tl.maximum(first + whole, 0), limit - 1)
    high = tl.minimum(tl.maximum(first + whole + (rest > 0), 0), limit - 1)
    return low, high, divide(rest.to(ACC), tl.broadcast_to(denominator, rest.shape).to(ACC))


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
    out,  # [B,K,C,P,P]
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
    y, next_y, share_y = _sample_at(top, bottom, wide(size), row, wide(height), ACC)
    x, next_x, share_x = _sample_at(left, right, wide(size), column, wide(width), ACC)
    written = (task < tasks) & (row < size) & (column < size)
    taken = written & filled & (height > 0) & (width > 0)
    image, k = task // num_segments, task % num_segments
    sample = row * size + column
    own = labels + image * height * width
    mask = _mix(
        _mix(
            (tl.load(own + y * width + x, mask=taken, other=-1) == k).to(ACC),
            (tl.load(own + y * width + next_x, mask=taken, other=-1) == k).to(ACC),
            share_x,
        ),
        _mix(
            (tl.load(own + next_y * width + x, mask=taken, other=-1) == k).to(ACC),
            (tl.load(own + next_y * width + next_x, mask=taken, other=-1) == k).to(ACC),
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
        target = out + (task * channels + c) * size * size + sample
        tl.store(target, patch, mask=written & (c < channels))
        first += CHANNELS


@checked(image="floating B C H W", labels="int32 B H W", boxes="int32 B K 4", size=1)
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
def _sample_from(first, last, size, pixel):
    """The first sample of [first, last] that lies at a pixel or after it; `size` where there is none."""
    extent, after = last - first, pixel - first
    found = (after * (size - 1) + extent - 1) // tl.maximum(extent, 1)
    found = tl.where(pixel > last, size, found)
    found = tl.where(size == 1, (2 * after > extent).to(tl.int64), found)
    return tl.where(pixel <= first, 0, found)


@jit
def _share_of(first, last, size, i, pixel, limit, ACC: tl.constexpr):
    """What sample i gives to a pixel."""
    low, high, share = _sample_at(first, last, size, i, limit, ACC)
    return tl.where((i < size) & (low == pixel), 1 - share, 0) + tl.where((i < size) & (high == pixel), share, 0)


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
    LISTED: tl.constexpr,
    BOXES: tl.constexpr,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The transpose of the resampling, for a tile of pixels and some channels.

    It lists the boxes that reach the tile, of LISTED at a time, and takes BOXES of them in their order, row by row of
    samples: each row is spread over the columns of the tile, then over its rows. So the order of all sums is fixed,
    without atomics. Reads the gradients of a box about four times, from the caches, and writes b C bytes per pixel.
    Axes: box, channel, pixel row, pixel column or sample.
    """
    program = tl.program_id(0).to(tl.int64)
    image, y, x, here = image_tile(program // blocks, height, width, ROWS, COLUMNS)
    c = channels_from(program % blocks * CHANNELS, CHANNELS)
    height, width, size = wide(height), wide(width), wide(size)
    upper, lower, leftmost, rightmost = tl.min(y), tl.max(y), tl.min(x), tl.max(x)
    of_row, of_column = tl.reshape(y, [1, ROWS]), tl.reshape(x, [1, COLUMNS, 1])
    channel = tl.reshape(c, [1, CHANNELS, 1])
    total = tl.zeros([CHANNELS, ROWS, COLUMNS], ACC)
    base = 0
    while base < num_segments:
        k = base + tl.arange(0, LISTED)
        top, left, bottom, right, reaches = _load_box(boxes, image * num_segments + k, k < num_segments)
        # What lies outside the image belongs to its border.
        reaches = reaches & ((top <= lower) | (lower >= height - 1)) & ((bottom >= upper) | (upper == 0))
        reaches = reaches & ((left <= rightmost) | (rightmost >= width - 1)) & ((right >= leftmost) | (leftmost == 0))
        place = tl.cumsum(reaches.to(tl.int32), axis=0) - 1
        listed = tl.max(tl.where(reaches, place + 1, 0), axis=0)
        done = 0
        while done < listed:
            slot = done + tl.arange(0, BOXES)
            is_slot = reaches[None, :] & (place[None, :] == slot[:, None])
            task = image * num_segments + tl.sum(tl.where(is_slot, k[None, :], 0), axis=1)
            exists = slot < listed
            ymin, xmin, ymax, xmax, _ = _load_box(boxes, task, exists)
            begin = tl.where(upper > 0, _sample_from(ymin, ymax, size, upper - 1), 0)
            end = tl.where(lower < height - 1, _sample_from(ymin, ymax, size, lower + 1), size)
            row_begin = tl.min(tl.where(exists, begin, size), axis=0)
            row_end = tl.max(tl.where(exists, end, 0), axis=0)
            first = 0
            while first < size:
                column = first + tl.arange(0, SAMPLES)[None, None, :]
                across = _share_of(xmin[:, None, None], xmax[:, None, None], size, wide(column), of_column, width, ACC)
                across = across[:, None, :, :]
                touched = exists[:, None, None] & (channel < channels) & (column < size)
                row = row_begin
                while row < row_end:
                    sample = ((task[:, None, None] * channels + channel) * size + row) * size + column
                    value = tl.load(grad + sample, mask=touched, other=0).to(ACC)[:, :, None, :]
                    spread = tl.sum(tl.where(across > 0, across * value, 0), axis=3)[:, :, None, :]
                    down = _share_of(ymin[:, None], ymax[:, None], size, row, of_row, height, ACC)[:, None, :, None]
                    total += tl.sum(tl.where((down > 0) & exists[:, None, None, None], down * spread, 0), axis=0)
                    row += 1
                first += SAMPLES
            done += BOXES
        base += LISTED
    wanted = here[None, :, :] & (c < channels)
    tl.store(out + ((image * channels + c) * height + y[None, :, :]) * width + x[None, :, :], total, mask=wanted)


@checked(boxes="int32 B K 4", grad_patches="floating B K C P P", height=0, width=0)
def token_patches_backward(grad_patches: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """The transpose of token_patches in the image: every sample's gradient goes to its four pixels."""
    batch, num_segments, channels, size, _ = grad_patches.shape
    require(size > 0, "grad_patches [B,K,C,P,P]: expected patches of at least one sample")
    out = grad_patches.new_empty(batch, channels, height, width)
    at_once = min(next_power_of_2(max(channels, 1)), 4)
    columns = min(next_power_of_2(max(width, 1)), 32)
    rows = min(next_power_of_2(max(height, 1)), 32, WORK // 128)
    samples = min(next_power_of_2(size), 16)
    together = min(max(WORK // (at_once * columns * max(rows, samples)), 1), 32)
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
        ACC=triton_dtype(accumulation_dtype(grad_patches.dtype)),
        LISTED=_LISTED,
        BOXES=together,
        SAMPLES=samples,
        CHANNELS=at_once,
        ROWS=rows,
        COLUMNS=columns,
    )
    return out
