"""Mean colours and gradients from sums, against least squares on the pixels themselves."""

import numpy as np
import pytest
import torch
from arc_tools import photographs
from scipy.optimize import minimize_scalar

import dhvt_kernels as dk
from dhvt_kernels.fills import fit_fills


def fills_of(image, labels):
    segments = int(labels.max()) + 1
    return fit_fills(dk.color_sums(image, labels, num_segments=segments).numpy())


def pixels(image, labels, k):
    """Positions [n,2] from the mean and colours [n,C] of a segment."""
    at = np.argwhere(labels.numpy() == k).astype(float)
    return at - at.mean(0), image.numpy()[:, labels.numpy() == k].T.astype(float), at.mean(0)


def error_along(at, colors, angle):
    """Squared error of the best linear gradient in one direction."""
    s = at @ [np.sin(angle), np.cos(angle)]
    design = np.stack([np.ones_like(s), s], 1)
    return np.square(colors - design @ np.linalg.lstsq(design, colors, rcond=None)[0]).sum()


def best(at, colors):
    """The least of those errors, over all directions: on a grid, then refined."""
    angles = np.linspace(0, np.pi, 40, endpoint=False)
    errors = [error_along(at, colors, angle) for angle in angles]
    start = angles[int(np.argmin(errors))]
    bounds = start - 0.1, start + 0.1
    near = minimize_scalar(lambda angle: error_along(at, colors, angle), bounds=bounds, method="bounded")
    return min(near.fun, min(errors))


def check(image, labels):
    fills = fills_of(image, labels)
    for k in range(len(fills.count)):
        at, colors, centroid = pixels(image, labels, k)
        assert fills.count[k] == len(at)
        np.testing.assert_allclose(fills.mean[k], colors.mean(0), atol=1e-9)
        np.testing.assert_allclose(fills.centroid[k], centroid, atol=1e-9)
        flat = np.square(colors - colors.mean(0)).sum()
        np.testing.assert_allclose(fills.error[k], flat, atol=1e-6 * len(at), rtol=1e-9)
        assert np.linalg.norm(fills.direction[k]) == pytest.approx(1)
        along = at @ fills.direction[k]
        assert fills.spread[k] == pytest.approx(along.std(), abs=1e-6)
        model = colors.mean(0) + along[:, None] * fills.slope[k]
        own = np.square(colors - model).sum()
        scale = max(flat, 1.0)
        assert fills.linear_error[k] == pytest.approx(own, abs=1e-7 * scale + 1e-6)
        assert own <= best(at, colors) + 1e-6 * scale
        assert own <= flat + 1e-6 * scale
    return fills


def test_random_segments():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 6, (11, 13), dtype=torch.int32, generator=generator)
    for channels in (1, 3, 4):
        image = torch.randint(0, 256, (channels, 11, 13), dtype=torch.uint8, generator=generator)
        check(image, labels)


def test_photographs():
    image, labels = list(photographs())[2]
    check(image, labels)


@pytest.mark.parametrize("angle", [0, 33, 90, 140])
def test_a_gradient_is_found(angle):
    y, x = np.indices((40, 60))
    along = y * np.sin(np.radians(angle)) + x * np.cos(np.radians(angle))
    slope = np.array([2.0, -1.0, 0.5])
    image = np.rint(128 + slope[:, None, None] * (along - along.mean())).astype(np.uint8)
    fills = check(torch.from_numpy(image), torch.zeros(40, 60, dtype=torch.int32))
    direction = np.array([np.sin(np.radians(angle)), np.cos(np.radians(angle))])
    assert abs(fills.direction[0] @ direction) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(fills.slope[0] * (fills.direction[0] @ direction), slope, atol=0.01)
    assert fills.linear_error[0] / fills.count[0] < 0.4, "what rounding left"


def test_planes_of_the_fills_are_exact_far_from_the_origin():
    """Sums of squares of large coordinates lose no digits that count."""
    labels = torch.full((3000, 40), -1, dtype=torch.int32)
    labels[2990:, 30:] = 0
    image = torch.zeros(1, 3000, 40, dtype=torch.uint8)
    image[0, 2990:, 30:] = torch.arange(10, dtype=torch.uint8) * 20
    fills = check(image, labels)
    np.testing.assert_allclose(abs(fills.direction[0]), [0, 1], atol=1e-6)
    assert abs(fills.slope[0, 0]) == pytest.approx(20, abs=1e-5)


def test_segments_on_a_line_and_of_one_pixel():
    labels = torch.tensor([[0, 0, 0, 0, 1, 2, 2]], dtype=torch.int32)
    image = torch.tensor([[[10, 20, 30, 40, 7, 5, 5]]], dtype=torch.uint8)
    fills = check(image, labels)
    assert abs(fills.slope[:, 0]) == pytest.approx([10, 0, 0])
    assert fills.linear_error == pytest.approx([0, 0, 0], abs=1e-9)
    assert fills.spread[1] == 0


def test_nothing_is_zero():
    fills = fit_fills(np.zeros((2, 18)))
    assert all(np.isfinite(column).all() for column in fills)
    for name in ("count", "mean", "centroid", "slope", "spread", "error", "linear_error"):
        assert not getattr(fills, name).any(), name
    assert len(fit_fills(np.zeros((0, 18), np.int64)).count) == 0


def test_sums_of_merged_segments_give_their_fills():
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 6, (20, 30), dtype=torch.int32, generator=generator)
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, generator=generator)
    sums = dk.color_sums(image, labels, num_segments=6).numpy()
    merged = fit_fills(sums[::2] + sums[1::2])
    whole = fills_of(image, labels // 2)
    for a, b in zip(merged, whole, strict=True):
        np.testing.assert_array_equal(a, b)
