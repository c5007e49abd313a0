"""The image with the mean of each segment replaced by its token: the sums, then one pass over the pixels."""

from torch import Tensor

from .._layout import empty_image_like
from ._checked import checked
from ._language import jit, tl, triton_dtype
from ._launch import launch
from ._math import divide
from ._tiles import channels_from, image_tile, row_of_pixel, tiles_of
from .segment_pool import segment_sum


@jit
def _inject_kernel(
    images,  # [B,C,H,W] by its strides
    tokens,  # [B,K,C]
    sums,  # [B,K,C]
    mass,  # [B,K]
    labels,  # [B,H,W]
    out,  # [B,C,H,W] by its strides
    channels,
    height,
    width,
    num_segments,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    out_image_stride,
    out_channel_stride,
    out_row_stride,
    out_column_stride,
    ACC: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program per tile of pixels: 4 + b C bytes in per pixel, b C out; the tables' rows come from the caches."""
    image, y, x, here = image_tile(tl.program_id(0).to(tl.int64), height, width, ROWS, COLUMNS)
    row, _, inside = row_of_pixel(labels, image, y, x, here, height, width, num_segments)
    number = tl.load(mass + row, mask=inside, other=1)
    source = images + image * image_stride + y * row_stride + x * column_stride
    target = out + image * out_image_stride + y * out_row_stride + x * out_column_stride
    first = 0
    while first < channels:
        c = channels_from(first, CHANNELS)
        wanted = here[None, :, :] & (c < channels)
        moved = wanted & inside[None, :, :]
        own = tl.load(source[None, :, :] + c * channel_stride, mask=wanted, other=0)
        table = row[None, :, :] * channels + c
        mean = divide(tl.load(sums + table, mask=moved, other=0), tl.broadcast_to(number[None, :, :], table.shape))
        shifted = own.to(ACC) + (tl.load(tokens + table, mask=moved, other=0) - mean)
        own = tl.where(moved, shifted, own).to(out.dtype.element_ty)
        tl.store(target[None, :, :] + c * out_channel_stride, own, mask=wanted)
        first += CHANNELS


@checked(image="floating B C H W", tokens="any B K C", labels="int32 B H W")
def mean_inject(image: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
    """out_i = image_i + (token_s - mean_s) for a pixel i of segment s; other pixels are copied."""
    batch, channels, height, width = image.shape
    num_segments = tokens.shape[1]
    labels = labels.contiguous()
    sums, mass = segment_sum(image, labels, None, num_segments)
    out = empty_image_like(image, image.dtype)
    tiles = tiles_of(batch, channels, height, width)
    launch(
        _inject_kernel,
        tiles.number,
        image,
        image,
        tokens.to(sums.dtype).contiguous(),
        sums,
        mass,
        labels,
        out,
        channels,
        height,
        width,
        num_segments,
        *image.stride(),
        *out.stride(),
        ACC=triton_dtype(sums.dtype),
        CHANNELS=tiles.channels,
        ROWS=tiles.rows,
        COLUMNS=tiles.columns,
    )
    return out
