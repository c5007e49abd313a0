"""Soft clustering: against a dense computation, and what holds for every image."""

import math
import subprocess
import sys

import pytest
import torch
from grid import DTYPES, LAYOUTS, assert_close
from soft_oracle import best_shares, cluster, dense, initial, parameters

import dhvt_kernels
from dhvt_kernels._checks import accumulation_dtype
from dhvt_kernels._schema import ops
from dhvt_kernels.ops.soft_assign import soft_assign
from dhvt_kernels.ops.soft_cluster import soft_cluster

CELL, HEIGHT, WIDTH = 4, 11, 14
NUMBERS = {"cell": CELL, "compactness": 2.0, "temperature": 1.5}


def inputs(dtype=torch.float64, channels=3):
    """Two images and their mask: noise, a padded half, a cell without a pixel."""
    features = torch.randn(2, channels, HEIGHT, WIDTH, dtype=torch.float64).to(dtype)
    mask = torch.rand(2, HEIGHT, WIDTH) > 0.1
    mask[0, 4:8, 4:8] = False
    mask[1, 7:] = False
    mask[1, :, 9:] = False
    return features, mask


def truth(features, mask, iterations, detach=False, compactness=2.0, temperature=1.5):
    """Centres, positions, masses in float64 from the dense computation."""
    images = zip(features.double(), mask, strict=True)
    states = [cluster(*image, CELL, compactness, temperature, iterations, detach) for image in images]
    return tuple(torch.stack(parts) for parts in zip(*states, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_grid(backend, dtype, layout):
    features, mask = inputs(dtype)
    acc = accumulation_dtype(dtype)
    for iterations in (0, 1, 4):
        expected = truth(features, mask, iterations)
        actual = soft_cluster(LAYOUTS[layout](features), mask=mask, iterations=iterations, **NUMBERS)
        for a, e in zip(actual[:3], expected, strict=True):
            assert a.dtype == acc
            assert_close(a, e, acc, scale=5)
        assert actual.labels.dtype == torch.int32
        assert torch.equal(actual.labels == -1, ~mask)
        for b in range(2):
            assignment = dense(features[b].double(), *(part[b] for part in expected), mask[b], **NUMBERS)
            assert (best_shares(actual.labels[b], assignment) > 1 - 1e-4).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_without_mask_on_a_view(backend, dtype):
    features = torch.randn(1, 2, HEIGHT, WIDTH, dtype=torch.float64).to(dtype)
    expected = truth(features, torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool), 3)
    view = features.expand(3, -1, -1, -1)
    for a, e in zip(soft_cluster(view, iterations=3, **NUMBERS)[:3], expected, strict=True):
        for b in range(3):
            assert_close(a[b], e[0], accumulation_dtype(dtype), scale=5)


def test_labels_are_those_of_soft_assign(backend):
    features, mask = inputs(torch.float32)
    clusters = soft_cluster(features, mask=mask, **NUMBERS)
    assigned = soft_assign(features, clusters.centers, clusters.positions, mass=clusters.mass, mask=mask, **NUMBERS)
    assert torch.equal(clusters.labels, assigned.labels)


def test_two_halves(backend):
    """Black and white, border inside a cell: every label is pure, and the means are black and white."""
    features = torch.zeros(1, 1, 16, 16)
    features[..., 6:] = 100
    clusters = soft_cluster(features, cell=4, iterations=5, compactness=1.0, temperature=1.0)
    own = features[0, 0]
    for j in clusters.labels.unique():
        values = own[clusters.labels[0] == j]
        assert values.min() == values.max()
        assert_close(clusters.centers[0, j], values[:1], torch.float32)
    assert_close(clusters.mass.sum(), torch.tensor(256.0), torch.float32)


@pytest.mark.parametrize(("compactness", "iterations"), [(0.0, 0), (20.0, 3)])
def test_constant_image_keeps_the_grid(backend, compactness, iterations):
    features = torch.full((1, 3, 12, 12), 7.0)
    clusters = soft_cluster(features, cell=4, iterations=iterations, compactness=compactness, temperature=1.0)
    own = torch.arange(12)[:, None] // 4 * 3 + torch.arange(12) // 4
    assert torch.equal(clusters.labels[0], own.int())
    assert_close(clusters.centers, torch.full((1, 9, 3), 7.0), torch.float32)


def test_constant_image_is_exact():
    """The kernel adds differences to the last centre: no rounding may decide between equal centres."""
    with dhvt_kernels.backend("native"):
        clusters = soft_cluster(torch.full((1, 3, 12, 12), 0.7), cell=4, iterations=5, compactness=0.0)
    assert (clusters.centers == clusters.centers[0, 0]).all()
    own = torch.arange(12)[:, None] // 4 * 3 + torch.arange(12) // 4
    assert torch.equal(clusters.labels[0], own.int())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_padding_by_whole_cells_changes_no_bit(backend, dtype):
    image = torch.randn(1, 3, 12, 16).to(dtype)
    padded = torch.full((2, 3, 24, 20), math.nan, dtype=dtype)
    padded[1] = torch.randn(3, 24, 20)
    padded[:1, :, :12, :16] = image
    mask = torch.ones(2, 24, 20, dtype=torch.bool)
    mask[0, 12:] = False
    mask[0, :, 16:] = False
    alone, batched = soft_cluster(image, **NUMBERS), soft_cluster(padded, mask=mask, **NUMBERS)
    kept = (torch.arange(3)[:, None] * 5 + torch.arange(4)).flatten()
    compare = torch.equal if backend == "native" else torch.allclose  # index_add adds in another order
    for a, e in zip(batched[:3], alone[:3], strict=True):
        assert compare(a[0, kept], e[0])
    rest = torch.ones(30, dtype=torch.bool).index_fill(0, kept, False)
    assert (batched.mass[0, rest] == 0).all()
    assert (batched.labels[0, 12:] == -1).all()
    assert (batched.labels[0, :, 16:] == -1).all()
    labels = batched.labels[0, :12, :16]
    assert torch.equal(labels // 5 * 4 + labels % 5, alone.labels[0])


def test_padding_inside_a_cell(backend):
    image = torch.randn(1, 3, 10, 15)
    padded = torch.full((1, 3, 12, 16), math.nan)
    padded[..., :10, :15] = image
    mask = torch.zeros(1, 12, 16, dtype=torch.bool)
    mask[:, :10, :15] = True
    alone, batched = soft_cluster(image, **NUMBERS), soft_cluster(padded, mask=mask, **NUMBERS)
    for a, e in zip(batched[:3], alone[:3], strict=True):
        assert_close(a, e, torch.float32)
    assert torch.equal(batched.labels[:, :10, :15], alone.labels)


def test_cell_without_a_pixel_keeps_its_values(backend):
    features, mask = inputs()
    for iterations in (0, 3):
        clusters = soft_cluster(features, mask=mask, iterations=iterations, **NUMBERS)
        middle = 5  # rows 4..7, columns 4..7
        assert clusters.mass[0, middle] == 0
        assert (clusters.centers[0, middle] == 0).all()
        assert clusters.positions[0, middle].tolist() == [5.5, 5.5]
        assert not (clusters.labels[0] == middle).any()


def test_centre_that_loses_its_pixels_keeps_its_values(backend):
    """A cell half black, half white between a black and a white one: at low temperature nobody wants its grey."""
    features = torch.zeros(1, 1, 4, 12)
    features[..., 6:] = 1
    numbers = {"cell": 4, "compactness": 0.0, "temperature": 1e-4}
    clusters = soft_cluster(features, iterations=1, **numbers)
    assert clusters.mass[0, 1] == 0
    assert clusters.centers[0, 1] == 0.5
    assert clusters.positions[0, 1].tolist() == [1.5, 5.5]
    later = soft_cluster(features, iterations=4, **numbers)
    for a, e in zip(later, clusters, strict=True):
        assert torch.equal(a, e)
    assert not (clusters.labels == 1).any()
    assert clusters.mass[0].tolist() == [24, 0, 24]
    features.requires_grad_()
    (grad,) = torch.autograd.grad(soft_cluster(features, iterations=4, **numbers).centers[0, 1], features)
    expected = torch.zeros(1, 1, 4, 12)
    expected[..., 4:8] = 1 / 16  # still the mean of its cell
    assert torch.equal(grad, expected)


def test_mass_just_above_the_least_has_finite_gradients(backend):
    """Shares near 2^-80: their reciprocal and what it multiplies stay finite."""
    features = torch.zeros(1, 1, 4, 12)
    features[..., 6:] = 1
    for temperature in torch.linspace(0.0042, 0.0048, 13).tolist():
        leaf = features.clone().requires_grad_()
        clusters = soft_cluster(leaf, cell=4, iterations=2, compactness=0.0, temperature=temperature)
        assert clusters.mass[0, 1] == 0 or clusters.mass[0, 1] > 1e-26
        (grad,) = torch.autograd.grad(1e6 * (clusters.centers.sum() + clusters.positions.sum()), leaf)
        assert grad.isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_pixel_that_is_not_finite_is_as_if_masked(backend, dtype, bad):
    features, mask = inputs(dtype)
    mask[0, 2, 5] = True
    without = mask.clone()
    without[0, 2, 5] = False
    expected = soft_cluster(features, mask=without, **NUMBERS)
    features[0, 1, 2, 5] = bad
    actual = soft_cluster(features, mask=mask, **NUMBERS)
    for a, e in zip(actual[:3], expected[:3], strict=True):
        assert torch.equal(a, e)
    assert actual.labels[0, 2, 5] == 1  # its own cell
    actual.labels[0, 2, 5] = -1
    assert torch.equal(actual.labels, expected.labels)


def test_gradient_of_a_pixel_that_is_not_finite_is_zero(backend):
    features, mask = inputs()
    features[0, 1, 2, 5] = math.nan
    features.requires_grad_()
    clusters = soft_cluster(features, mask=mask, **NUMBERS)
    (grad,) = torch.autograd.grad(clusters.centers.square().sum() + clusters.positions.square().sum(), features)
    assert grad.isfinite().all()
    assert (grad[0, :, 2, 5] == 0).all()
    assert (grad.movedim(1, -1)[~mask] == 0).all()


@pytest.mark.parametrize("temperature", [1e-50, 1e-38, 1e-10])
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e15])
def test_no_overflow(backend, temperature, scale):
    features = scale * torch.randn(1, 3, HEIGHT, WIDTH)
    clusters = soft_cluster(features, cell=4, compactness=2.0, temperature=temperature)
    assert all(part.isfinite().all() for part in clusters)
    assert_close(clusters.mass.sum(), torch.tensor(float(HEIGHT * WIDTH)), torch.float32)


def test_float16_does_not_overflow(backend):
    features = torch.full((1, 4, 9, 9), 65504.0, dtype=torch.float16)
    clusters = soft_cluster(features, cell=3, temperature=1.0)
    assert_close(clusters.centers, torch.full((1, 9, 4), 65504.0), torch.float32)


def test_far_positions_stay_exact():
    """Cells that hold the same pixels have the same position inside them, however far from the origin."""
    features = torch.randn(1, 1, 8, 64).repeat(1, 1, 1, 625)
    with dhvt_kernels.backend("native"):
        clusters = soft_cluster(features, cell=8, compactness=2.0, temperature=1.0)
    x = clusters.positions[0, :, 1].reshape(-1, 8)
    for far in (300, 600):
        assert (x[far] - x[10] - (far - 10) * 64).abs().max() < 4e-3  # half an ulp at 40000 is 2e-3


@pytest.mark.parametrize("size", [(0, 3, 5, 6), (2, 3, 0, 6), (2, 3, 5, 0), (2, 0, 5, 6), (1, 1, 1, 1)])
@pytest.mark.parametrize("cell", [1, 4, 2**31 - 1])
def test_degenerate_sizes(backend, size, cell):
    features = torch.randn(size, requires_grad=True)
    cells = -(-size[2] // cell) * -(-size[3] // cell)
    clusters = soft_cluster(features, cell=cell, iterations=2)
    assert clusters.centers.shape == (size[0], cells, size[1])
    assert clusters.positions.shape == (size[0], cells, 2)
    assert_close(clusters.mass.sum(1), torch.full((size[0],), float(size[2] * size[3])), torch.float32)
    assert clusters.labels.shape == (size[0], *size[2:])
    (grad,) = torch.autograd.grad(clusters.centers.sum(), features)
    assert_close(grad.sum(), torch.tensor(float(size[0] * cells * size[1])), torch.float32)


def test_cell_larger_than_the_image_is_one_mean(backend):
    features = torch.randn(1, 3, 20, 90)
    clusters = soft_cluster(features, cell=1000)
    assert_close(clusters.centers[0, 0], features.mean((0, 2, 3)), torch.float32)
    assert_close(clusters.positions[0, 0], torch.tensor([9.5, 44.5]), torch.float32)
    assert (clusters.labels == 0).all()


def test_cells_wider_than_a_tile(backend):
    features = torch.randn(1, 2, 30, 230)
    mask = torch.rand(1, 30, 230) > 0.1
    numbers = {"cell": 100, "compactness": 30.0, "temperature": 2.0}
    actual = soft_cluster(features, mask=mask, iterations=2, **numbers)
    expected = cluster(features[0].double(), mask[0], *numbers.values(), 2)
    for a, e in zip(actual[:3], expected, strict=True):
        assert_close(a[0], e, torch.float32, scale=5)


@pytest.mark.parametrize("grad", ["full", "last"])
@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_gradients_against_autograd_of_the_dense_computation(backend, iterations, grad):
    """In float64; `last` means that the last update sees constant centres."""
    features, mask = inputs()
    features.requires_grad_()
    compactness, temperature = parameters()
    actual = soft_cluster(
        features, cell=4, iterations=iterations, compactness=compactness, temperature=temperature, grad=grad, mask=mask
    )
    expected = truth(features, mask, iterations, grad == "last", compactness, temperature)
    upstream = [torch.randn_like(part) for part in expected]
    upstream[0][0, 5] = upstream[1][0, 5] = upstream[2][0, 5] = 0  # without a pixel: the dense weights are 0 / 0 there
    tracked = (features, compactness, temperature)
    outputs = [(a, e, g) for a, e, g in zip(actual[:3], expected, upstream, strict=True) if e.requires_grad]
    actual, expected, upstream = zip(*outputs, strict=True)
    got = torch.autograd.grad(actual, tracked, upstream)
    want = torch.autograd.grad(expected, tracked, upstream, allow_unused=True)
    for a, e in zip(got, want, strict=True):
        assert_close(a, torch.zeros_like(a) if e is None else e, torch.float64, scale=10)


def test_last_differs_from_full(backend):
    features, mask = inputs()
    grads = []
    for grad in ("full", "last"):
        leaf = features.clone().requires_grad_()
        clusters = soft_cluster(leaf, grad=grad, mask=mask, **NUMBERS)
        grads += torch.autograd.grad(clusters.centers.square().sum(), leaf)
    assert (grads[0] - grads[1]).abs().max() > 1e-3


def test_gradcheck(backend):
    features, mask = inputs(channels=2)

    def function(features, compactness, temperature):
        return soft_cluster(
            features, cell=4, iterations=2, compactness=compactness, temperature=temperature, mask=mask
        )[:3]

    assert torch.autograd.gradcheck(function, (features.requires_grad_(), *parameters()), fast_mode=True)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_in_every_dtype(backend, dtype, layout, last):
    features, mask = inputs(dtype)
    upstream = [torch.randn(2, 12, *rest, dtype=torch.float64) for rest in ((3,), (2,), ())]

    def gradients(features):
        leaf = features.detach().requires_grad_()
        compactness, temperature = parameters()
        clusters = soft_cluster(
            leaf,
            cell=4,
            iterations=3,
            compactness=compactness,
            temperature=temperature,
            grad="last" if last else "full",
            mask=mask,
        )
        grads = [g.to(part.dtype) for g, part in zip(upstream, clusters[:3], strict=True)]
        return torch.autograd.grad(clusters[:3], (leaf, compactness, temperature), grads)

    with dhvt_kernels.backend("reference"):
        expected = gradients(features.double())
    actual = gradients(LAYOUTS[layout](features))
    assert actual[0].dtype == dtype
    assert actual[0].is_contiguous(
        memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format
    )
    assert_close(actual[0], expected[0], dtype, scale=2)
    for a, e in zip(actual[1:], expected[1:], strict=True):
        assert_close(a, e, accumulation_dtype(dtype), scale=10)


def test_no_double_backward(backend):
    features, _ = inputs()
    clusters = soft_cluster(features.requires_grad_(), **NUMBERS)
    (grad,) = torch.autograd.grad(clusters.centers.square().sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_what_has_no_gradient(backend):
    features, _ = inputs()
    assert not soft_cluster(features, **NUMBERS).centers.requires_grad
    clusters = soft_cluster(features.requires_grad_(), **NUMBERS)
    assert clusters.centers.requires_grad
    assert not clusters.labels.requires_grad
    with torch.no_grad():
        assert not soft_cluster(features, **NUMBERS).centers.requires_grad


def test_saved_states_are_those_of_every_iteration(backend):
    features, mask = inputs()
    states = ops.soft_cluster(features, mask, None, 4, 2.0, 1.5, 3)
    for iterations in range(4):
        for part, whole in zip(truth(features, mask, iterations), states[:3], strict=True):
            assert_close(whole[iterations], part, torch.float64, scale=10)
    count = torch.stack([initial(f, m, 4)[2] for f, m in zip(features, mask, strict=True)])
    assert torch.equal(states[2][0], count)


MEASURE = """
import resource, sys, torch, dhvt_kernels
from dhvt_kernels.ops.soft_cluster import soft_cluster
torch.set_num_threads(1)

def run(side):
    x = torch.rand(1, 3, side, side, requires_grad=True)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clusters = soft_cluster(x, cell=8, iterations=3)
    forward = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
    clusters.centers.sum().backward()
    return forward, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start

run(64)
print(*run(1024))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in kilobytes on Linux")
@pytest.mark.skipif(dhvt_kernels._native.native_error is not None, reason="the reference stores the assignment")
def test_memory_holds_no_pixels_times_candidates():
    """Of 1024 x 1024 pixels: the assignment would take 36 MiB; features and their gradient take 12 each, labels 4."""
    output = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, timeout=120)
    forward, both = (int(kib) / 1024 for kib in output.stdout.split())
    assert forward < 20
    assert both < 34


def test_compiles_without_graph_break_or_recompile():
    def loss(features, temperature, mask):
        clusters = soft_cluster(features, cell=4, iterations=2, temperature=temperature, compactness=2.0, mask=mask)
        return clusters.centers.square().sum() + clusters.mass.square().sum() + clusters.labels.sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for call in range(2):
        features, mask = inputs()
        tracked = (features.requires_grad_(), parameters()[1])
        with torch._dynamo.config.patch(error_on_recompile=call == 1):
            actual = torch.autograd.grad(compiled(*tracked, mask), tracked)
        for a, e in zip(actual, torch.autograd.grad(loss(*tracked, mask), tracked), strict=True):
            torch.testing.assert_close(a, e)


def test_bad_input():
    features, mask = inputs(torch.float32)
    with pytest.raises(TypeError, match=r"features: expected \[B,C,H,W\] of float32"):
        soft_cluster(features.to(torch.uint8), cell=4)
    with pytest.raises(ValueError, match=r"features: expected \[B,C,H,W\]; found \[3,11,14\]"):
        soft_cluster(features[0], cell=4)
    with pytest.raises(ValueError, match=r"mask: expected \[B,H,W\] = \[2,11,14\]"):
        soft_cluster(features, cell=4, mask=mask[:, :, 1:])
    with pytest.raises(TypeError, match=r"mask: expected .* of bool"):
        soft_cluster(features, cell=4, mask=mask.float())
    for cell, error in ((0, ValueError), (-1, ValueError), (4.0, TypeError)):
        with pytest.raises(error, match="cell: expected an integer"):
            soft_cluster(features, cell=cell)
    for iterations, error in ((-1, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="iterations: expected an integer"):
            soft_cluster(features, cell=4, iterations=iterations)
    for name, bad in (("compactness", -1.0), ("compactness", math.inf), ("temperature", 0.0), ("temperature", -2.0)):
        with pytest.raises(ValueError, match=f"{name}: expected a finite number"):
            soft_cluster(features, cell=4, **{name: bad})
    with pytest.raises(TypeError, match="temperature: expected a number"):
        soft_cluster(features, cell=4, temperature="1")
    with pytest.raises(ValueError, match="compactness: expected a number or a floating tensor with one element"):
        soft_cluster(features, cell=4, compactness=torch.tensor(2))
    with pytest.raises(ValueError, match="grad: expected one of full, last; found 'none'"):
        soft_cluster(features, cell=4, grad="none")
