"""Arguments of the operators that make features."""

import torch

from dhvt_kernels._checks import accumulation_dtype


def images(dtype):
    return [torch.rand(*size).to(dtype) for size in ((2, 3, 37, 45), (0, 3, 4, 4), (1, 3, 1, 1))]


def srgb_to_lab(dtype):
    return [(image,) for image in images(dtype)]


def srgb_to_lab_backward(dtype):
    return [(torch.randn(image.shape, dtype=accumulation_dtype(dtype)), image) for image in images(dtype)]


SAMPLES = {"srgb_to_lab": srgb_to_lab, "srgb_to_lab_backward": srgb_to_lab_backward}
