"""CIELAB, smoothing, and the learned encoder."""

import numpy as np
import pytest
import skimage.color
import torch
from grid import DTYPES, LAYOUTS, assert_close
from scipy.ndimage import gaussian_filter

import dhvt_kernels as dk
from dhvt_kernels import reference


def test_lab_equals_scikit_image(backend):
    image = torch.rand(2, 3, 9, 11, dtype=torch.float64)
    expected = skimage.color.rgb2lab(image.permute(0, 2, 3, 1).numpy())
    # scikit-image rounds its matrix and white point to fewer digits.
    np.testing.assert_allclose(dk.srgb_to_lab(image).permute(0, 2, 3, 1).numpy(), expected, atol=0.05)


def test_lab_of_uint8_equals_lab_of_the_same_floats(backend):
    image = torch.randint(0, 256, (1, 3, 5, 7), dtype=torch.uint8)
    torch.testing.assert_close(dk.srgb_to_lab(image), dk.srgb_to_lab(image.float() / 255), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_images_are_computed_in_float32(dtype):
    image = torch.rand(1, 3, 5, 7).to(dtype)
    for context in (torch.autocast("cpu", enabled=False), torch.autocast("cpu", dtype=torch.bfloat16)):
        with context:
            lab = dk.SmoothedLab()(image)
        assert lab.dtype == torch.float32
        torch.testing.assert_close(lab, dk.SmoothedLab()(image.float()), rtol=0, atol=0)


def test_gradients(backend):
    image = torch.rand(1, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(dk.SmoothedLab(), (image,))
    mask = torch.rand(1, 3, 4) > 0.2
    assert torch.autograd.gradgradcheck(lambda x: dk.gaussian_blur(x, sigma=0.7, mask=mask), (image,))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_lab_against_the_reference_in_float64(backend, dtype, layout):
    image = torch.cat([torch.rand(1, 3, 19, 23), torch.rand(1, 3, 19, 23) * 0.06 - 0.01]).to(dtype)
    expected = reference.srgb_to_lab(image.double())
    x = LAYOUTS[layout](image).requires_grad_()
    lab = dk.srgb_to_lab(x)
    assert_close(lab, expected, torch.float64 if dtype == torch.float64 else torch.float32, scale=5)
    grad = torch.randn(lab.shape)
    lab.backward(grad.to(lab.dtype))
    assert_close(x.grad, reference.srgb_to_lab_backward(grad.double(), image.double()), dtype, scale=100)


def test_lab_has_the_same_bits_for_any_number_of_threads_and_layout():
    image = torch.rand(1, 3, 200, 229)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            results += [dk.SmoothedLab()(layout(image)) for layout in LAYOUTS.values()]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_gradient_is_finite_at_black_and_white(backend):
    image = torch.tensor([0.0, 1.0]).repeat(1, 3, 1, 1).requires_grad_()
    dk.srgb_to_lab(image).sum().backward()
    assert image.grad.isfinite().all()


def test_blur_equals_scipy_inside():
    image = torch.rand(1, 1, 20, 20, dtype=torch.float64)
    expected = gaussian_filter(image[0, 0].numpy(), sigma=1.1, truncate=4.0, mode="constant")
    actual = dk.gaussian_blur(image, sigma=1.1)[0, 0]
    torch.testing.assert_close(actual[5:-5, 5:-5], torch.tensor(expected)[5:-5, 5:-5], rtol=1e-12, atol=1e-12)


def test_blur_keeps_constants_up_to_the_border():
    image = torch.full((1, 2, 4, 5), 3.7, dtype=torch.float64)
    torch.testing.assert_close(dk.gaussian_blur(image, sigma=0.7), image, rtol=1e-13, atol=0)


def test_blur_of_a_padded_image_is_that_of_the_image():
    image = torch.rand(3, 9, 7)
    padded, mask = dk.pad_images([image, torch.rand(3, 12, 20)])
    torch.testing.assert_close(
        dk.gaussian_blur(padded, sigma=0.7, mask=mask)[0, :, :9, :7], dk.gaussian_blur(image[None], sigma=0.7)[0]
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sigma", [0.7, 9.0])
def test_blur_against_the_reference_in_float64(backend, dtype, layout, sigma):
    image = torch.rand(2, 5, 41, 270).to(dtype)
    image[0, 2, 7, 100] = float("nan")
    mask = torch.rand(2, 41, 270) > 0.3
    expected, total = reference.gaussian_blur(image.double(), mask, sigma)
    x = LAYOUTS[layout](image).requires_grad_()
    blurred = dk.gaussian_blur(x, sigma=sigma, mask=mask)
    assert_close(blurred, expected, dtype)
    grad = torch.randn(blurred.shape).to(dtype)
    blurred.backward(grad)
    assert_close(x.grad, reference.gaussian_blur_backward(grad.double(), total, sigma), dtype)


def test_nan_stays_in_its_pixel(backend):
    image = torch.rand(1, 3, 8, 8)
    image[0, 1, 4, 4] = float("nan")
    lab = dk.SmoothedLab()(image)
    bad = lab.isnan().any(1)[0].nonzero().tolist()
    assert bad == [[4, 4]]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (33, 20)])
def test_encoder_takes_any_size(size):
    encoder = dk.ConvEncoder(5)
    assert encoder(torch.rand(2, 3, *size)).shape == (2, 5, *size)
    assert encoder(torch.zeros(2, 3, *size, dtype=torch.uint8)).shape == (2, 5, *size)


def test_bad_input():
    with pytest.raises(ValueError, match=r"images: expected \[B,3,H,W\]"):
        dk.srgb_to_lab(torch.rand(1, 4, 2, 2))
    with pytest.raises(TypeError, match=r"images: expected .* of uint8"):
        dk.srgb_to_lab(torch.zeros(1, 3, 2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="sigma: expected a finite number > 0"):
        dk.gaussian_blur(torch.rand(1, 3, 2, 2), sigma=0)
    with pytest.raises(ValueError, match="smoothing"):
        dk.Tokenizer(smoothing=-1.0)


@pytest.mark.parametrize("sigma", [1e3, 1e308])
def test_blur_wider_than_the_image_is_its_mean(sigma):
    images = torch.rand(1, 2, 6, 5, dtype=torch.float64)
    blurred = dk.gaussian_blur(images, sigma=sigma)
    assert torch.allclose(blurred, images.mean((2, 3), keepdim=True).expand_as(images), atol=1e-4)
