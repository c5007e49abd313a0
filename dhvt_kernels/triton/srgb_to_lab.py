"""sRGB to CIELAB (D65) and its derivative: one lane per pixel."""

import torch
from torch import Tensor

from .._checks import accumulation_dtype
from .._layout import empty_image_like
from ._checked import checked
from ._lanes import lanes
from ._language import cdiv, jit, tl, triton_dtype
from ._launch import launch
from ._math import wide

BLOCK = 256
#: XYZ relative to the white point D65 from linear sRGB (IEC 61966-2-1), row by row.
MIX = tl.constexpr(
    (
        (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
        (0.2126729, 0.7151522, 0.0721750),
        (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
    )
)


@jit
def _power(x, exponent: tl.constexpr):
    """x^exponent for x > 0."""
    return tl.exp2(tl.log2(x) * exponent)


@jit
def _linear_light(srgb):
    """Linear light from sRGB, and its derivative; NaN takes the linear branch, which keeps it."""
    curved = srgb > 0.04045
    u = (tl.maximum(srgb, 0.04045) + 0.055) / 1.055
    square = _power(u, 1.4)
    return tl.where(curved, u * square, srgb / 12.92), tl.where(curved, (2.4 / 1.055) * square, 1 / 12.92)


@jit
def _lab_curve(t):
    """t^(1/3) above the knee (6/29)^3, linear below, and its derivative."""
    knee: tl.constexpr = 216.0 / 24389.0
    slope: tl.constexpr = 841.0 / 108.0
    curved = t > knee
    x = tl.maximum(t, knee)
    root = _power(x, 1.0 / 3)
    return tl.where(curved, root, t * slope + 4.0 / 29.0), tl.where(curved, root / (3 * x), slope)


@jit
def _mixed(r, g, b, row: tl.constexpr):
    return MIX[row][0] * r + MIX[row][1] * g + MIX[row][2] * b


@jit
def _pixels(height, width, pixels, BLOCK: tl.constexpr):
    """Image, row and column of this program's pixels, and which of them exist."""
    index, here = lanes(pixels, BLOCK)
    return index // width // height, index // width % height, index % width, here


@jit
def _load_srgb(images, stride, ACC: tl.constexpr, BYTES: tl.constexpr, here):
    r = tl.load(images, mask=here, other=0).to(ACC)
    g = tl.load(images + stride, mask=here, other=0).to(ACC)
    b = tl.load(images + 2 * wide(stride), mask=here, other=0).to(ACC)
    if BYTES:
        r, g, b = r / 255, g / 255, b / 255
    return r, g, b


@jit
def _lab_kernel(
    images,  # [B,3,H,W] by its strides
    lab,  # [B,3,H,W]
    height,
    width,
    pixels,  # B H W
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    ACC: tl.constexpr,
    BYTES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Reads and writes three numbers per pixel."""
    image, y, x, here = _pixels(height, width, pixels, BLOCK)
    source = images + image * image_stride + y * row_stride + x * column_stride
    r, g, b = _load_srgb(source, channel_stride, ACC, BYTES, here)
    r, _ = _linear_light(r)
    g, _ = _linear_light(g)
    b, _ = _linear_light(b)
    gx, _ = _lab_curve(_mixed(r, g, b, 0))
    gy, _ = _lab_curve(_mixed(r, g, b, 1))
    gz, _ = _lab_curve(_mixed(r, g, b, 2))
    plane = wide(height) * width
    out = lab + image * 3 * plane + y * width + x
    tl.store(out, 116 * gy - 16, mask=here)
    tl.store(out + plane, 500 * (gx - gy), mask=here)
    tl.store(out + 2 * plane, 200 * (gy - gz), mask=here)


@jit
def _lab_backward_kernel(
    grad,  # [B,3,H,W], by its strides as the images
    images,  # [B,3,H,W]
    out,  # [B,3,H,W]
    height,
    width,
    pixels,  # B H W
    grad_image_stride,
    grad_channel_stride,
    grad_row_stride,
    grad_column_stride,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    out_image_stride,
    out_channel_stride,
    out_row_stride,
    out_column_stride,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Reads six numbers per pixel and writes three."""
    image, y, x, here = _pixels(height, width, pixels, BLOCK)
    source = images + image * image_stride + y * row_stride + x * column_stride
    r, g, b = _load_srgb(source, channel_stride, ACC, False, here)
    r, slope_r = _linear_light(r)
    g, slope_g = _linear_light(g)
    b, slope_b = _linear_light(b)
    _, slope_x = _lab_curve(_mixed(r, g, b, 0))
    _, slope_y = _lab_curve(_mixed(r, g, b, 1))
    _, slope_z = _lab_curve(_mixed(r, g, b, 2))
    source = grad + image * grad_image_stride + y * grad_row_stride + x * grad_column_stride
    of_l = tl.load(source, mask=here, other=0)
    of_a = tl.load(source + grad_channel_stride, mask=here, other=0)
    of_b = tl.load(source + 2 * wide(grad_channel_stride), mask=here, other=0)
    of_x = 500 * of_a * slope_x
    of_y = (116 * of_l - 500 * of_a + 200 * of_b) * slope_y
    of_z = -200 * of_b * slope_z
    target = out + image * out_image_stride + y * out_row_stride + x * out_column_stride
    of_r = (MIX[0][0] * of_x + MIX[1][0] * of_y + MIX[2][0] * of_z) * slope_r
    of_g = (MIX[0][1] * of_x + MIX[1][1] * of_y + MIX[2][1] * of_z) * slope_g
    of_b = (MIX[0][2] * of_x + MIX[1][2] * of_y + MIX[2][2] * of_z) * slope_b
    tl.store(target, of_r, mask=here)
    tl.store(target + out_channel_stride, of_g, mask=here)
    tl.store(target + 2 * wide(out_channel_stride), of_b, mask=here)


@checked(images="pixels B 3 H W")
def srgb_to_lab(images: Tensor) -> Tensor:
    """[B,3,H,W] in [0, 1], or uint8, to L, a, b in the accumulation dtype."""
    batch, channels, height, width = images.shape
    dtype = accumulation_dtype(images.dtype)
    lab = images.new_empty(batch, channels, height, width, dtype=dtype)
    pixels = batch * height * width
    launch(
        _lab_kernel,
        cdiv(pixels, BLOCK),
        images,
        images,
        lab,
        height,
        width,
        pixels,
        *images.stride(),
        ACC=triton_dtype(dtype),
        BYTES=images.dtype == torch.uint8,
        BLOCK=BLOCK,
    )
    return lab


@checked(images="floating B 3 H W", grad="sum B 3 H W")
def srgb_to_lab_backward(grad: Tensor, images: Tensor) -> Tensor:
    """Gradient to the images, in their dtype and memory format."""
    batch, _, height, width = images.shape
    out = empty_image_like(images, images.dtype)
    pixels = batch * height * width
    launch(
        _lab_backward_kernel,
        cdiv(pixels, BLOCK),
        images,
        grad,
        images,
        out,
        height,
        width,
        pixels,
        *grad.stride(),
        *images.stride(),
        *out.stride(),
        ACC=triton_dtype(grad.dtype),
        BLOCK=BLOCK,
    )
    return out
