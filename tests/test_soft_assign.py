"""Soft assignment: against a dense computation, by hand, and at the edges of every range."""

import math

import numpy as np
import pytest
import torch
from grid import DTYPES, LAYOUTS, assert_close
from soft_oracle import best_shares, dense, parameters

import dhvt_kernels
from dhvt_kernels._checks import accumulation_dtype
from dhvt_kernels._schema import ops
from dhvt_kernels.ops.soft_assign import soft_assign

CELL, HEIGHT, WIDTH = 4, 11, 14
ROWS, COLUMNS = 3, 4
NUMBERS = {"cell": CELL, "compactness": 2.0, "temperature": 1.5}


def inputs(dtype=torch.float64, batch=2, channels=3):
    """features, centers, positions, mass (some 0), mask (some False)."""
    acc = accumulation_dtype(dtype)
    features = torch.randn(batch, channels, HEIGHT, WIDTH, dtype=torch.float64).to(dtype)
    centers = torch.randn(batch, ROWS * COLUMNS, channels, dtype=acc)
    middle = torch.cartesian_prod(torch.arange(ROWS), torch.arange(COLUMNS)) * CELL + 1.5
    positions = (middle + torch.randn(batch, ROWS * COLUMNS, 2)).to(acc)
    mass = torch.rand(batch, ROWS * COLUMNS).to(acc)
    mass[:, [1, 7]] = 0
    mask = torch.rand(batch, HEIGHT, WIDTH) > 0.2
    return features, centers, positions, mass, mask


def truth(features, centers, positions, mass, mask, **numbers):
    """The dense assignment of every image [B,H*W,L], in float64."""
    return torch.stack(
        [
            dense(*image, **numbers)
            for image in zip(features.double(), centers.double(), positions.double(), mass, mask, strict=True)
        ]
    )


def scatter(assignment, rows=ROWS, columns=COLUMNS, cell=CELL):
    """[B,9,H,W] of candidates to [B,H*W,L] of centres; what lies outside the image must be 0."""
    batch, _, height, width = assignment.shape
    out = assignment.new_zeros(batch, height, width, rows * columns)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for k in range(9):
        r, c = y // cell + k // 3 - 1, x // cell + k % 3 - 1
        inside = (r >= 0) & (r < rows) & (c >= 0) & (c < columns)
        assert (assignment[:, k, ~inside] == 0).all()
        out[:, y[inside], x[inside], (r * columns + c)[inside]] = assignment[:, k, inside]
    return out.flatten(1, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_grid(backend, dtype, layout):
    features, centers, positions, mass, mask = inputs(dtype)
    expected = truth(features, centers, positions, mass, mask, **NUMBERS)
    actual = soft_assign(LAYOUTS[layout](features), centers, positions, mass=mass, mask=mask, **NUMBERS)
    assert actual.assignment.dtype == dtype
    assert actual.assignment.is_contiguous()
    assert_close(scatter(actual.assignment), expected, dtype)
    assert actual.labels.dtype == torch.int32
    assert torch.equal(actual.labels == -1, ~mask)
    for b in range(2):
        assert (best_shares(actual.labels[b], expected[b]) > 1 - 1e-4).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_without_mass_and_mask(backend, dtype):
    features, centers, positions, mass, mask = inputs(dtype)
    expected = truth(features, centers, positions, torch.ones_like(mass), torch.ones_like(mask), **NUMBERS)
    actual = soft_assign(features, centers, positions, **NUMBERS)
    assert_close(scatter(actual.assignment), expected, dtype)
    assert_close(actual.assignment.double().sum(1), torch.ones(2, HEIGHT, WIDTH), dtype)


def test_views_of_centers_and_expanded_features(backend):
    features, centers, positions, mass, mask = inputs()
    expected = soft_assign(
        features[:1].repeat(3, 1, 1, 1),
        centers[:1].repeat(3, 1, 1),
        positions[:1].repeat(3, 1, 1),
        mass=mass[:1].repeat(3, 1),
        mask=mask[:1].repeat(3, 1, 1),
        **NUMBERS,
    )
    actual = soft_assign(
        features[:1].expand(3, -1, -1, -1),
        centers[:1].transpose(1, 2).contiguous().transpose(1, 2).expand(3, -1, -1),
        positions[:1].expand(3, -1, -1),
        mass=mass[:1].expand(3, -1),
        mask=mask[:1].transpose(1, 2).contiguous().transpose(1, 2).expand(3, -1, -1),
        **NUMBERS,
    )
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)


def test_one_pixel_by_hand(backend):
    """NumPy, one pixel, one candidate after the other."""
    features, centers, positions, _, _ = inputs(batch=1)
    y, x = 5, 2  # row 1, column 0 of the cells
    shares = np.zeros(9)
    for k in range(9):
        row, column = 1 + k // 3 - 1, 0 + k % 3 - 1
        if 0 <= row < ROWS and 0 <= column < COLUMNS:
            j = row * COLUMNS + column
            distance = np.sum((features[0, :, y, x].numpy() - centers[0, j].numpy()) ** 2)
            distance += (2.0 / 4) ** 2 * np.sum((np.array([y, x]) - positions[0, j].numpy()) ** 2)
            shares[k] = math.exp(-distance / 1.5)
    shares /= shares.sum()
    actual = soft_assign(features, centers, positions, **NUMBERS)
    np.testing.assert_allclose(actual.assignment[0, :, y, x].numpy(), shares, rtol=1e-12)
    k = int(shares.argmax())
    assert actual.labels[0, y, x] == (k // 3) * COLUMNS + k % 3 - 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ties_go_to_the_own_cell_then_to_the_lowest_index(backend, dtype):
    acc = accumulation_dtype(dtype)
    features = torch.full((1, 2, 12, 12), 0.5, dtype=dtype)
    own = (torch.arange(12)[:, None] // 4 * 3 + torch.arange(12) // 4).int()[None]
    centers, positions = torch.full((1, 9, 2), 0.5, dtype=acc), torch.zeros(1, 9, 2, dtype=acc)
    numbers = {"cell": 4, "compactness": 0.0, "temperature": 1.0}
    assert torch.equal(soft_assign(features, centers, positions, **numbers).labels, own)
    mass = torch.ones(1, 9, dtype=acc)
    mass[0, [0, 4]] = 0  # not the middle cell's own, not the first
    labels = soft_assign(features, centers, positions, mass=mass, **numbers).labels
    assert (labels[0, 4:8, 4:8] == 1).all()
    assert torch.equal(labels[0, 8:], own[0, 8:])
    assert (labels[0, :4, :4] == 1).all()


def test_no_candidate_at_all(backend):
    features, centers, positions, mass, _ = inputs()
    assignment, labels = soft_assign(features, centers, positions, mass=torch.zeros_like(mass), **NUMBERS)
    assert (assignment == 0).all()
    own = torch.arange(HEIGHT)[:, None] // CELL * COLUMNS + torch.arange(WIDTH) // CELL
    assert torch.equal(labels, own.int().expand(2, -1, -1))


def test_what_is_no_candidate_does_not_matter(backend):
    features, centers, positions, mass, mask = inputs()
    expected = soft_assign(features, centers, positions, mass=mass, mask=mask, **NUMBERS)
    other = centers + (mass == 0)[..., None] * 1e3
    # The cell's own centre is where the scores are measured from, so equal only up to rounding.
    assert_close(
        soft_assign(features, other, positions, mass=mass, mask=mask, **NUMBERS)[0], expected[0], torch.float32
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_pixel_that_is_not_finite_stays_alone(backend, dtype, bad):
    features, centers, positions, mass, _ = inputs(dtype)
    expected = soft_assign(features, centers, positions, mass=mass, **NUMBERS)
    features[1, 2, 6, 9] = bad
    actual = soft_assign(features, centers, positions, mass=mass, **NUMBERS)
    assert (actual.assignment[1, :, 6, 9] == 0).all()
    assert actual.labels[1, 6, 9] == 1 * COLUMNS + 2
    for a, e in zip(actual, expected, strict=True):
        a[1, ..., 6, 9] = e[1, ..., 6, 9]
        assert torch.equal(a, e)


def test_shares_are_accurate_in_float32(backend):
    """Scores that float32 holds exactly, so that only the exponential errs."""
    centers = torch.tensor([0.0, 0.125, 0.5, 0.75, 1.25, 1.5, 2.0, 2.75, 3.25]).reshape(1, 9, 1)
    features, positions = torch.zeros(1, 1, 3, 3), torch.zeros(1, 9, 2)
    assignment = soft_assign(features, centers, positions, cell=1, compactness=0.0).assignment[0, :, 1, 1].double()
    expected = (-centers[0, :, 0].double().square()).softmax(0)
    torch.testing.assert_close(assignment, expected, rtol=1.5e-6, atol=0)


@pytest.mark.parametrize("temperature", [1e-50, 1e-38, 1e-20, 1e-4])
def test_low_temperature_is_hard_assignment(backend, temperature):
    features, centers, positions, mass, mask = inputs(torch.float32)
    actual = soft_assign(
        100 * features, 100 * centers, positions, mass=mass, mask=mask, cell=4, compactness=2.0, temperature=temperature
    )
    assert_close(actual.assignment.amax(1), mask.double(), torch.float32)
    assert_close(actual.assignment.sum(1), mask.double(), torch.float32)


@pytest.mark.parametrize("scale", [1e-30, 1e15, 1e18])
def test_extreme_features(backend, scale):
    features, centers, positions, _, _ = inputs(torch.float32)
    actual = soft_assign(scale * features, scale * centers, positions, **NUMBERS)
    assert_close(actual.assignment.sum(1), torch.ones(2, HEIGHT, WIDTH), torch.float32)


def test_extreme_parameters(backend):
    features, centers, positions, _, _ = inputs(torch.float32)
    flat = soft_assign(features, centers, positions, cell=4, compactness=1.0, temperature=1e38).assignment
    count = (flat > 0).sum(1, keepdim=True)
    assert_close(flat, (flat > 0) / count, torch.float32)
    spatial = soft_assign(features, centers, positions, cell=4, compactness=1e30, temperature=1.0)
    assert_close(spatial.assignment.sum(1), torch.ones(2, HEIGHT, WIDTH), torch.float32)
    learned = soft_assign(
        features, centers, positions, cell=4, compactness=torch.tensor(1.0), temperature=torch.tensor(-1.0)
    )
    assert_close(learned.assignment.sum(1), torch.ones(2, HEIGHT, WIDTH), torch.float32)


def test_float16_does_not_overflow(backend):
    features = torch.full((1, 3, 4, 8), 65504.0, dtype=torch.float16)
    features[..., 4:] *= -1
    centers = torch.tensor([[[65504.0] * 3, [-65504.0] * 3]])
    positions = torch.tensor([[[1.5, 1.5], [1.5, 5.5]]])
    labels = soft_assign(features, centers, positions, cell=4).labels
    assert torch.equal(labels, torch.tensor([0, 1]).repeat_interleave(4).int().expand(1, 4, 8))


def test_far_positions_stay_exact(backend):
    """A wide image, assigned by position alone."""
    width, cell = 40_000, 8
    features = torch.zeros(1, 1, 8, width)
    columns = width // cell
    positions = torch.stack((torch.full((columns,), 3.5), torch.arange(columns) * 8 + 3.5), 1)[None]
    numbers = {"cell": cell, "compactness": 8.0, "temperature": 1.0}
    assignment, labels = soft_assign(features, torch.zeros(1, columns, 1), positions, **numbers)
    assert_close(assignment[..., -16:-8], assignment[..., 16:24], torch.float32)
    assert torch.equal(labels[0, 0], (torch.arange(width) // cell).int())


@pytest.mark.parametrize("size", [(0, 3, 5, 6), (2, 3, 0, 6), (2, 3, 5, 0), (2, 0, 5, 6), (1, 1, 1, 1)])
@pytest.mark.parametrize("cell", [1, 4, 2**31 - 1])
def test_degenerate_sizes(backend, size, cell):
    features = torch.randn(size, requires_grad=True)
    cells = -(-size[2] // cell) * -(-size[3] // cell)
    centers = torch.randn(size[0], cells, size[1], requires_grad=True)
    positions = torch.randn(size[0], cells, 2, requires_grad=True)
    assignment, labels = soft_assign(features, centers, positions, cell=cell)
    assert assignment.shape == (size[0], 9, *size[2:])
    assert labels.shape == (size[0], *size[2:])
    assert_close(assignment.sum(1), torch.ones(labels.shape), torch.float32)
    for grad in torch.autograd.grad(assignment.square().sum(), (features, centers, positions), allow_unused=True):
        assert grad is None or grad.isfinite().all()


def test_cell_larger_than_a_tile(backend):
    """Rows of more pixels than one tile holds, rows that end inside a tile, the last cell smaller."""
    features = torch.randn(1, 2, 150, 170)
    centers, positions = torch.randn(1, 4, 2), 60 * torch.rand(1, 4, 2)
    ones = torch.ones(1, 4), torch.ones(1, 150, 170, dtype=torch.bool)
    numbers = {"cell": 100, "compactness": 20.0, "temperature": 2.0}
    expected = truth(features, centers, positions, *ones, **numbers)
    actual = soft_assign(features, centers, positions, **numbers)
    assert_close(scatter(actual.assignment, 2, 2, 100), expected, torch.float32)


def test_gradcheck(backend):
    features, centers, positions, mass, mask = inputs(batch=2, channels=2)
    features[0, 1, 3, 3] = math.nan

    def function(centers, positions, compactness, temperature):
        return soft_assign(
            features, centers, positions, cell=4, compactness=compactness, temperature=temperature, mass=mass, mask=mask
        ).assignment

    tracked = (centers.requires_grad_(), positions.requires_grad_(), *parameters())
    assert torch.autograd.gradcheck(function, tracked, fast_mode=True)
    finite = features[1:].clone().requires_grad_()

    def of_features(features):
        return soft_assign(features, centers[1:], positions[1:], mass=mass[1:], mask=mask[1:], **NUMBERS).assignment

    assert torch.autograd.gradcheck(of_features, (finite,), fast_mode=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_in_every_dtype(backend, dtype, layout):
    features, centers, positions, mass, mask = inputs(dtype)
    upstream = torch.randn(2, 9, HEIGHT, WIDTH, dtype=torch.float64).to(dtype)

    def gradients(features, centers, positions, parameters):
        tracked = (features.requires_grad_(), centers.requires_grad_(), positions.requires_grad_(), *parameters)
        compactness, temperature = parameters
        numbers = {"cell": 4, "compactness": compactness, "temperature": temperature}
        assignment = soft_assign(features, centers, positions, mass=mass.to(centers), mask=mask, **numbers).assignment
        return torch.autograd.grad(assignment, tracked, upstream.to(features.dtype))

    with dhvt_kernels.backend("reference"):
        expected = gradients(*(t.detach().double() for t in (features, centers, positions)), parameters())
    actual = gradients(LAYOUTS[layout](features), centers, positions, parameters())
    assert actual[0].dtype == dtype
    assert actual[0].is_contiguous(
        memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format
    )
    assert_close(actual[0], expected[0], dtype)
    for a, e in zip(actual[1:], expected[1:], strict=True):
        assert_close(a, e, accumulation_dtype(dtype), scale=5)


def test_infinite_gradients_where_the_share_is_zero_by_definition(backend):
    """As an entropy sum(a log a) gives them: no share outside the image or the mask has a gradient."""
    features, centers, positions, mass, mask = inputs()
    grads = []
    for value in (0.0, math.inf):
        tracked = [t.detach().clone().requires_grad_() for t in (features, centers, positions)]
        assignment = soft_assign(*tracked, mass=mass, mask=mask, **NUMBERS).assignment
        upstream = torch.where(assignment == 0, value, assignment.detach())
        grads.append(torch.autograd.grad(assignment, tracked, upstream))
    for a, e in zip(grads[1], grads[0], strict=True):
        assert torch.equal(a, e)


def test_strided_coefficients(backend):
    arguments = inputs(torch.float32)
    spread = torch.tensor([2.0, 9.0, 1.5, 9.0])[::2]
    expected = ops.soft_assign(*arguments, None, 4, 2.0, 1.5)
    assert torch.equal(ops.soft_assign(*arguments, spread, 4, 0.0, 0.0)[0], expected[0])


def test_parameters_as_tensors_of_any_shape_and_dtype(backend):
    features, centers, positions, _, _ = inputs(torch.float32)
    expected = soft_assign(features, centers, positions, **NUMBERS).assignment
    compactness = torch.tensor([2.0], dtype=torch.float16, requires_grad=True)
    actual = soft_assign(features, centers, positions, cell=4, compactness=compactness, temperature=1.5).assignment
    assert torch.equal(actual, expected)
    actual.square().sum().backward()
    assert compactness.grad.shape == (1,)


def test_no_double_backward(backend):
    features, centers, positions, _, _ = inputs()
    assignment = soft_assign(features.requires_grad_(), centers, positions, **NUMBERS).assignment
    (grad,) = torch.autograd.grad(assignment.square().sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_labels_have_no_gradient(backend):
    features, centers, positions, _, _ = inputs()
    assert not soft_assign(features.requires_grad_(), centers, positions, **NUMBERS).labels.requires_grad


def test_compiles_without_graph_break_or_recompile():
    def loss(features, centers, positions, temperature):
        assignment, labels = soft_assign(features, centers, positions, cell=4, compactness=2.0, temperature=temperature)
        return assignment.square().sum() + labels.sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for call in range(2):
        features, centers, positions, _, _ = inputs()
        tracked = (features.requires_grad_(), centers.requires_grad_(), positions.requires_grad_(), parameters()[1])
        with torch._dynamo.config.patch(error_on_recompile=call == 1):
            actual = torch.autograd.grad(compiled(*tracked), tracked)
        for a, e in zip(actual, torch.autograd.grad(loss(*tracked), tracked), strict=True):
            torch.testing.assert_close(a, e)


def test_bad_input():
    features, centers, positions, mass, mask = inputs(torch.float32)
    with pytest.raises(TypeError, match=r"features: expected \[B,C,H,W\] of float32"):
        soft_assign(features.int(), centers, positions, cell=4)
    with pytest.raises(ValueError, match=r"features: expected \[B,C,H,W\]; found"):
        soft_assign(features[0], centers, positions, cell=4)
    with pytest.raises(TypeError, match="features: expected a tensor"):
        soft_assign([1.0], centers, positions, cell=4)
    with pytest.raises(ValueError, match=r"centers: expected \[2, 12, 3\], one centre for each of the 3 x 4 cells"):
        soft_assign(features, centers[:, :5], positions, cell=4)
    with pytest.raises(TypeError, match=r"centers: expected .* of float32"):
        soft_assign(features, centers.double(), positions, cell=4)
    with pytest.raises(ValueError, match=r"positions: expected \[B,L,2\] = \[2,12,2\]"):
        soft_assign(features, centers, centers, cell=4)
    with pytest.raises(ValueError, match=r"mass: expected \[2, 12\]"):
        soft_assign(features, centers, positions, cell=4, mass=mass[:, 1:])
    with pytest.raises(TypeError, match=r"mask: expected .* of bool"):
        soft_assign(features, centers, positions, cell=4, mask=mask.int())
    with pytest.raises(ValueError, match="mask: expected"):
        soft_assign(features, centers, positions, cell=4, mask=mask[:, 1:])
    for cell, error in ((0, ValueError), (-3, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="cell: expected an integer"):
            soft_assign(features, centers, positions, cell=cell)
    for name, bad in (
        ("compactness", -1.0),
        ("compactness", math.nan),
        ("temperature", 0.0),
        ("temperature", math.inf),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected a finite number"):
            soft_assign(features, centers, positions, cell=4, **{name: bad})
    with pytest.raises(ValueError, match="temperature: expected a number or a floating tensor with one element"):
        soft_assign(features, centers, positions, cell=4, temperature=torch.ones(2))


def test_direct_call_of_the_operator_checks_sizes():
    features, centers, positions, mass, mask = inputs(torch.float32)
    with pytest.raises(RuntimeError, match="centers"):
        ops.soft_assign(features, centers[:, :3], positions, mass, mask, None, 4, 1.0, 1.0)
    grad = torch.zeros(2, 8, HEIGHT, WIDTH)
    with pytest.raises(RuntimeError, match="grad_assignment"):
        ops.soft_assign_backward(grad, features, centers, positions, mass, mask, None, 4, 1.0, 1.0)
