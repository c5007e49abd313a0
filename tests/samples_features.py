"""Arguments of the operators that make features."""

import torch

from dhvt_kernels._checks import accumulation_dtype


def images(dtype):
    return [torch.rand(*size).to(dtype) for size in ((2, 3, 37, 45), (0, 3, 4, 4), (1, 3, 1, 1))]


def srgb_to_lab(dtype):
    return [(image,) for image in images(dtype)]


def srgb_to_lab_backward(dtype):
    return [(torch.randn(image.shape, dtype=accumulation_dtype(dtype)), image) for image in images(dtype)]


def gaussian_blur(dtype):
    some = torch.rand(2, 37, 45) > 0.2
    masks = [some, torch.empty(0, 4, 4, dtype=torch.bool), None]
    return [(image, mask, 0.7) for image, mask in zip(images(dtype), masks, strict=True)]


def gaussian_blur_backward(dtype):
    arguments = gaussian_blur(dtype)
    totals = [torch.ops.dhvt_kernels.gaussian_blur(*each)[1] for each in arguments]
    return [(torch.randn(each[0].shape).to(dtype), total, 0.7) for each, total in zip(arguments, totals, strict=True)]


SAMPLES = {
    "srgb_to_lab": srgb_to_lab,
    "srgb_to_lab_backward": srgb_to_lab_backward,
    "gaussian_blur": gaussian_blur,
    "gaussian_blur_backward": gaussian_blur_backward,
}
