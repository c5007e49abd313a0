"""sRGB to CIELAB (D65)."""

import torch
from torch import Tensor

from .._checks import accumulation_dtype
from .._layout import like_image

#: Linear sRGB to CIE XYZ (IEC 61966-2-1) and the white point D65.
XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
WHITE = (0.95047, 1.0, 1.08883)
DELTA = 6 / 29


def _mix(channels: Tensor, matrix: Tensor) -> Tensor:
    """A linear map of the channels [B,C,H,W]."""
    return torch.einsum("ij,bjhw->bihw", matrix, channels)


def srgb_to_lab(images: Tensor) -> Tensor:
    """[B,3,H,W] in [0, 1], or uint8, to L, a, b in the accumulation dtype."""
    srgb = images.to(accumulation_dtype(images.dtype))
    if images.dtype == torch.uint8:
        srgb = srgb / 255
    # The clamps keep the gradient of the branch that is not taken finite.
    power = ((srgb.clamp_min(0.04045) + 0.055) / 1.055).pow(2.4)
    linear = torch.where(srgb <= 0.04045, srgb / 12.92, power)
    xyz = _mix(linear, srgb.new_tensor(XYZ) / srgb.new_tensor(WHITE)[:, None])
    g = torch.where(xyz > DELTA**3, xyz.clamp_min(DELTA**3).pow(1 / 3), xyz / (3 * DELTA**2) + 4 / 29)
    lab = _mix(g, srgb.new_tensor([[0, 116, 0], [500, -500, 0], [0, 200, -200]]))
    return (lab - srgb.new_tensor([16, 0, 0]).reshape(1, 3, 1, 1)).contiguous()


def srgb_to_lab_backward(grad: Tensor, images: Tensor) -> Tensor:
    """Gradient to the images, by autograd, in their dtype and memory format."""
    with torch.enable_grad():
        leaf = images.detach().to(grad.dtype).requires_grad_()
        (gradient,) = torch.autograd.grad(srgb_to_lab(leaf), leaf, grad)
    return like_image(gradient.to(images.dtype), images)
