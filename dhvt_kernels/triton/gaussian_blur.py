"""Gaussian smoothing over the pixels that exist: along the rows, then along the columns, through a workspace.

The adjoint of the blur is the same sum with the division before it, so it reads the sums of weights that the forward
writes. A pixel exists where its divisor, which is 1 in the forward, is positive; others are returned as they came.
"""

import torch
from torch import Tensor

from .._checks import accumulation_dtype
from .._layout import empty_image_like
from ._checked import checked, require
from ._lanes import lanes
from ._language import cdiv, interpreted, jit, next_power_of_2, tl
from ._launch import launch
from ._math import divide

#: Numbers of a program. The interpreter pays by the operation, whatever its size.
BLOCK = 32768 if interpreted else 256


@jit
def _weights_kernel(
    weights,  # [radius + 1]
    sigma,  # [1] float64
    count,
    BLOCK: tl.constexpr,
):
    """exp(-d^2 / (2 sigma^2)) of distances d."""
    d, here = lanes(count, BLOCK)
    distance = d.to(tl.float64) / tl.load(sigma)
    tl.store(weights + d, tl.exp(-0.5 * distance * distance), mask=here)


@jit
def _exists_kernel(
    images,  # [B,C,H,W] by its strides
    mask,  # [B,H,W] or None
    divisors,  # [B,H,W]
    channels,
    height,
    width,
    pixels,  # B H W
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    BLOCK: tl.constexpr,
):
    """1 where all channels are finite and the mask has the pixel, else 0. Reads b C bytes per pixel and writes 4."""
    pixel, here = lanes(pixels, BLOCK)
    image, y, x = pixel // width // height, pixel // width % height, pixel % width
    at = images + image * image_stride + y * row_stride + x * column_stride
    total = tl.zeros([BLOCK], divisors.dtype.element_ty)
    c = 0
    while c < channels:
        total += tl.load(at, mask=here, other=0).to(total.dtype)
        at += channel_stride
        c += 1
    exists = tl.abs(total) < float("inf")
    if mask is not None:
        exists = exists & tl.load(mask + pixel, mask=here, other=0)
    tl.store(divisors + pixel, exists.to(total.dtype), mask=here)


@jit
def _rows_kernel(
    images,  # [B,C,H,W] by its strides
    divisors,  # [B,H,W]
    weights,  # [radius + 1]
    sums,  # [B,P,H,W], P = C planes, and in the forward that of the weights
    planes,
    channels,
    height,
    width,
    numbers,  # B P H W
    radius,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    BLOCK: tl.constexpr,
):
    """Sums along rows of what exists, divided by its divisor. One lane per pixel of a plane: reads b + 4 bytes, the
    neighbours' from the caches, and writes 4."""
    number, here = lanes(numbers, BLOCK)
    x, y = number % width, number // width % height
    plane, image = number // width // height % planes, number // width // height // planes
    source = images + image * image_stride + plane * channel_stride + y * row_stride
    first = divisors + (image * height + y) * width
    total = tl.zeros([BLOCK], divisors.dtype.element_ty)
    d = -radius
    while d <= radius:
        inside = here & (x + d >= 0) & (x + d < width)
        divisor = tl.load(first + x + d, mask=inside, other=0)
        exists = divisor > 0
        value = tl.load(source + (x + d) * column_stride, mask=exists & (plane < channels), other=0).to(total.dtype)
        value = tl.where(plane < channels, value, 1)
        weight = tl.load(weights + tl.abs(d))
        total += tl.where(exists, weight * divide(value, tl.where(exists, divisor, 1)), 0)
        d += 1
    tl.store(sums + number, total, mask=here)


@jit
def _columns_kernel(
    images,  # [B,C,H,W] by its strides
    divisors,  # [B,H,W]
    weights,  # [radius + 1]
    sums,  # [B,P,H,W] along rows
    total,  # [B,H,W]; None in the adjoint
    out,  # [B,C,H,W] by its strides
    planes,
    channels,
    height,
    width,
    pixels,  # B H W
    radius,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    out_image_stride,
    out_channel_stride,
    out_row_stride,
    out_column_stride,
    BLOCK: tl.constexpr,
):
    """Sums along columns, and the division by those of the weights. One lane per pixel: reads 4 P + 4 bytes, the
    neighbours' from the caches, and writes b C + 4."""
    pixel, here = lanes(pixels, BLOCK)
    image, y, x = pixel // width // height, pixel // width % height, pixel % width
    exists = tl.load(divisors + pixel, mask=here, other=0) > 0
    size = tl.cast(height, tl.int64) * width
    target = out + image * out_image_stride + y * out_row_stride + x * out_column_stride
    source = images + image * image_stride + y * row_stride + x * column_stride
    divisor = tl.full([BLOCK], 1, sums.dtype.element_ty)
    plane = planes - 1  # the weights come first
    while plane >= 0:
        at = sums + (image * planes + plane) * size + y * width + x
        value = tl.zeros([BLOCK], sums.dtype.element_ty)
        d = -radius
        while d <= radius:
            inside = here & (y + d >= 0) & (y + d < height)
            value += tl.load(weights + tl.abs(d)) * tl.load(at + d * tl.cast(width, tl.int64), mask=inside, other=0)
            d += 1
        if plane == channels:
            if total is not None:  # it always is: the adjoint has no such plane
                tl.store(total + pixel, tl.where(exists, value, 0), mask=here)
            divisor = tl.where(exists, value, 1)
        else:
            offset = tl.cast(plane, tl.int64)
            original = tl.load(source + offset * channel_stride, mask=here & (exists == 0), other=0).to(value.dtype)
            value = tl.where(exists, divide(value, divisor), original)
            tl.store(target + offset * out_channel_stride, value, mask=here)
        plane -= 1


def _radius(sigma: float, size: int) -> int:
    """The kernel is cut at 4 sigma; there is nothing beyond the image."""
    return max(int(min(4 * sigma + 0.5, size - 1)), 0)


def _blur(images: Tensor, divisors: Tensor, total: Tensor | None, sigma: float) -> Tensor:
    """The sums of images / divisors, and in the forward, where they go to `total`, those of the weights."""
    batch, channels, height, width = images.shape
    planes = channels + (total is not None)
    out = empty_image_like(images, images.dtype)
    rows = divisors.new_empty(batch, planes, height, width)
    along_y, along_x = _radius(sigma, height), _radius(sigma, width)
    count = max(along_x, along_y) + 1
    weights = divisors.new_empty(count)
    of_sigma = images.new_full((1,), sigma, dtype=torch.float64)
    launch(_weights_kernel, cdiv(count, 128), images, weights, of_sigma, count, BLOCK=128)
    block = min(BLOCK, next_power_of_2(max(rows.numel(), 1)))
    sizes = (planes, channels, height, width)
    launch(
        _rows_kernel,
        cdiv(rows.numel(), block),
        images,
        images,
        divisors,
        weights,
        rows,
        *sizes,
        rows.numel(),
        along_x,
        *images.stride(),
        BLOCK=block,
    )
    launch(
        _columns_kernel,
        cdiv(divisors.numel(), block),
        images,
        images,
        divisors,
        weights,
        rows,
        total,
        out,
        *sizes,
        divisors.numel(),
        along_y,
        *images.stride(),
        *out.stride(),
        BLOCK=block,
    )
    return out


@checked(images="floating B C H W", mask="bool B H W?")
def gaussian_blur(images: Tensor, mask: Tensor | None, sigma: float) -> tuple[Tensor, Tensor]:
    """Blurred images, and the sum of the weights of each pixel [B,H,W]; 0 where a pixel does not exist."""
    require(sigma > 0, f"gaussian_blur: expected sigma > 0; found {sigma}")
    batch, channels, height, width = images.shape
    divisors = images.new_empty(batch, height, width, dtype=accumulation_dtype(images.dtype))
    pixels = divisors.numel()
    block = min(BLOCK, next_power_of_2(max(pixels, 1)))
    launch(
        _exists_kernel,
        cdiv(pixels, block),
        images,
        images,
        None if mask is None else mask.contiguous(),
        divisors,
        channels,
        height,
        width,
        pixels,
        *images.stride(),
        BLOCK=block,
    )
    total = torch.empty_like(divisors)
    return _blur(images, divisors, total, sigma), total


@checked(grad="floating B C H W", total="sum B H W")
def gaussian_blur_backward(grad: Tensor, total: Tensor, sigma: float) -> Tensor:
    """The adjoint of the blur: the division comes before the sum."""
    require(sigma > 0, f"gaussian_blur_backward: expected sigma > 0; found {sigma}")
    return _blur(grad, total.contiguous(), None, sigma)
