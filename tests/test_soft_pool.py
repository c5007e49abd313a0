"""Pooling with the soft assignment, against the dense assignment."""

import math

import pytest
import torch
from grid import DTYPES, LAYOUTS, assert_close
from soft_oracle import dense, parameters

from dhvt_kernels._checks import accumulation_dtype
from dhvt_kernels._schema import ops
from dhvt_kernels.ops.soft_cluster import SoftClusters, soft_cluster
from dhvt_kernels.ops.soft_pool import soft_pool

HEIGHT, WIDTH = 11, 14
NUMBERS = {"cell": 4, "compactness": 2.0, "temperature": 1.5}


def inputs(dtype=torch.float64, channels=3, width=5):
    """features, values, clusters (some without mass), mask."""
    acc = accumulation_dtype(dtype)
    features = torch.randn(2, channels, HEIGHT, WIDTH, dtype=torch.float64).to(dtype)
    values = torch.randn(2, width, HEIGHT, WIDTH, dtype=torch.float64).to(dtype)
    mask = torch.rand(2, HEIGHT, WIDTH) > 0.1
    mask[1, 7:] = False
    middle = torch.cartesian_prod(torch.arange(3), torch.arange(4)) * 4 + 1.5
    mass = torch.rand(2, 12).to(acc)
    mass[:, [1, 7]] = 0
    positions = (middle + torch.randn(2, 12, 2)).to(acc)
    return (
        features,
        values,
        SoftClusters(torch.randn(2, 12, channels, dtype=acc), positions, mass, torch.empty(0)),
        mask,
    )


def truth(features, values, clusters, mask, compactness=2.0, temperature=1.5):
    """sums [B,L,Cv] and mass [B,L] in float64."""
    sums, mass = [], []
    for b in range(len(features)):
        centers, positions, weight = (part[b].double() for part in clusters[:3])
        assignment = dense(features[b].double(), centers, positions, weight, mask[b], 4, compactness, temperature)
        sums.append(assignment.T @ values[b].double().flatten(1).T)
        mass.append(assignment.sum(0))
    return torch.stack(sums), torch.stack(mass)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_grid(backend, dtype, layout):
    features, values, clusters, mask = inputs(dtype)
    expected = truth(features, values, clusters, mask)
    for f, v in ((LAYOUTS[layout](features), values), (features, LAYOUTS[layout](values))):
        actual = soft_pool(f, v, clusters, mask=mask, **NUMBERS)
        for a, e in zip(actual, expected, strict=True):
            assert a.dtype == accumulation_dtype(dtype)
            assert a.is_contiguous()
            assert_close(a, e, accumulation_dtype(dtype), scale=2)


def test_expanded_values(backend):
    features, values, clusters, mask = inputs(torch.float32)
    values = values[:1, :1].expand(2, 5, -1, -1)
    expected = soft_pool(features, values.contiguous(), clusters, mask=mask, **NUMBERS)
    for a, e in zip(soft_pool(features, values, clusters, mask=mask, **NUMBERS), expected, strict=True):
        assert torch.equal(a, e)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pooling_the_features_is_the_next_update(backend, dtype):
    features, _, _, mask = inputs(dtype)
    clusters = soft_cluster(features, iterations=2, mask=mask, **NUMBERS)
    later = soft_cluster(features, iterations=3, mask=mask, **NUMBERS)
    sums, mass = soft_pool(features, features, clusters, mask=mask, **NUMBERS)
    alive = mass > 0
    assert_close(mass, later.mass, dtype)
    assert_close((sums / mass[..., None])[alive], later.centers[alive], dtype, scale=5)


def test_nothing_is_lost(backend):
    features, values, clusters, mask = inputs(torch.float32)
    sums, mass = soft_pool(features, values, clusters, mask=mask, **NUMBERS)
    assert_close(mass.sum(1), mask.sum((1, 2)), torch.float32)
    assert_close(sums.sum(1), (values * mask[:, None]).sum((2, 3)), torch.float32, scale=5)
    assert (mass[clusters.mass == 0] == 0).all()
    assert (sums[clusters.mass == 0] == 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_pixel_whose_features_are_not_finite_is_left_out(backend, bad):
    features, values, clusters, mask = inputs(torch.float32)
    without = mask.clone()
    without[0, 2, 5] = False
    expected = soft_pool(features, values, clusters, mask=without, **NUMBERS)
    features[0, 1, 2, 5] = values[0, 0, 2, 5] = bad
    for a, e in zip(soft_pool(features, values, clusters, mask=mask, **NUMBERS), expected, strict=True):
        assert torch.equal(a, e)


def test_masked_values_may_be_anything(backend):
    features, values, clusters, mask = inputs(torch.float32)
    expected = soft_pool(features, values, clusters, mask=mask, **NUMBERS)
    dirty = values.masked_fill(~mask[:, None], math.nan)
    for a, e in zip(soft_pool(features, dirty, clusters, mask=mask, **NUMBERS), expected, strict=True):
        assert torch.equal(a, e)


@pytest.mark.parametrize("size", [(0, 3, 5, 6), (2, 3, 0, 6), (2, 3, 5, 0), (2, 0, 5, 6), (1, 1, 1, 1)])
@pytest.mark.parametrize("width", [0, 2])
def test_degenerate_sizes(backend, size, width):
    features = torch.randn(size, requires_grad=True)
    values = torch.randn(size[0], width, *size[2:], requires_grad=True)
    sums, mass = soft_pool(features, values, soft_cluster(features.detach(), cell=4), cell=4)
    cells = -(-size[2] // 4) * -(-size[3] // 4)
    assert sums.shape == (size[0], cells, width)
    assert_close(mass.sum(1), torch.full((size[0],), float(size[2] * size[3])), torch.float32)
    grads = torch.autograd.grad(sums.sum() + mass.sum(), (features, values))
    assert_close(grads[1], torch.ones(values.shape), torch.float32)


def gradients(function, features, values, clusters, mask, upstream):
    centers, positions, mass, labels = clusters
    tracked = (features, values, centers, positions, *parameters())
    leaves = [t.detach().requires_grad_() for t in tracked]
    outputs = function(*leaves[:2], SoftClusters(leaves[2], leaves[3], mass, labels), mask, *leaves[4:])
    return torch.autograd.grad(outputs, leaves, [g.to(o.dtype) for g, o in zip(upstream, outputs, strict=True)])


def pool(features, values, clusters, mask, compactness, temperature):
    return soft_pool(features, values, clusters, cell=4, compactness=compactness, temperature=temperature, mask=mask)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_against_autograd_of_the_dense_computation(backend, dtype, layout):
    features, values, clusters, mask = inputs(dtype)
    upstream = torch.randn(2, 12, 5, dtype=torch.float64), torch.randn(2, 12, dtype=torch.float64)
    exact = SoftClusters(*(part.double() for part in clusters[:3]), clusters.labels)
    expected = gradients(truth, features.double(), values.double(), exact, mask, upstream)
    actual = gradients(pool, LAYOUTS[layout](features), LAYOUTS[layout](values), clusters, mask, upstream)
    for a, e in zip(actual[:2], expected, strict=False):
        assert a.dtype == dtype
        assert a.is_contiguous(
            memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format
        )
        assert_close(a, e, dtype, scale=2)
    for a, e in zip(actual[2:], expected[2:], strict=True):
        assert_close(a, e, accumulation_dtype(dtype), scale=10)


def test_gradcheck(backend):
    features, values, clusters, mask = inputs(channels=2, width=2)

    def function(features, values, centers, positions, compactness, temperature):
        state = SoftClusters(centers, positions, clusters.mass, clusters.labels)
        return pool(features, values, state, mask, compactness, temperature)

    tracked = [t.requires_grad_() for t in (features, values, clusters.centers, clusters.positions)]
    assert torch.autograd.gradcheck(function, (*tracked, *parameters()), fast_mode=True)


def test_through_the_clustering(backend):
    """Values, features and the parameters of the whole chain."""
    features, values, _, mask = inputs(channels=2, width=2)

    def function(features, values, compactness, temperature):
        numbers = {"cell": 4, "compactness": compactness, "temperature": temperature, "mask": mask}
        return soft_pool(features, values, soft_cluster(features, iterations=2, **numbers), **numbers)

    tracked = (features.requires_grad_(), values.requires_grad_(), *parameters())
    assert torch.autograd.gradcheck(function, tracked, fast_mode=True)


def test_values_may_be_the_features(backend):
    features, _, clusters, _ = inputs()
    leaf = features.clone().requires_grad_()
    sums, _ = soft_pool(leaf, leaf, clusters, **NUMBERS)
    (both,) = torch.autograd.grad(sums.square().sum(), leaf)
    first, second = features.clone().requires_grad_(), features.clone().requires_grad_()
    sums, _ = soft_pool(first, second, clusters, **NUMBERS)
    parts = torch.autograd.grad(sums.square().sum(), (first, second))
    assert_close(both, sum(parts), torch.float64)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_infinite_gradient_stays_with_the_cells_around_its_centre(backend, threads):
    features, values = (torch.randn(2, 2, 30, 8, requires_grad=True) for _ in range(2))
    clusters = soft_cluster(features.detach(), **NUMBERS)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    sums, _ = soft_pool(features, values, clusters, **NUMBERS)
    grad = torch.ones_like(sums)
    grad[0, 10] = torch.inf  # of row 5 of the 8 rows of cells
    for found in torch.autograd.grad(sums, (features, values), grad):
        assert not found[0, :, 16:28].isfinite().all()
        assert found[0, :, :16].isfinite().all()
        assert found[0, :, 28:].isfinite().all()
        assert found[1].isfinite().all()
    torch.set_num_threads(before)


def test_no_double_backward(backend):
    features, values, clusters, _ = inputs()
    sums, _ = soft_pool(features, values.requires_grad_(), clusters, **NUMBERS)
    (grad,) = torch.autograd.grad(sums.square().sum(), values, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_compiles_without_graph_break_or_recompile():
    def loss(features, values, centers, positions, mass):
        sums, weights = soft_pool(features, values, SoftClusters(centers, positions, mass, mass), **NUMBERS)
        own, _ = soft_pool(features, features, SoftClusters(centers, positions, mass, mass), **NUMBERS)
        return sums.square().sum() + weights.square().sum() + own.square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for call in range(2):
        features, values, clusters, _ = inputs()
        tracked = [t.requires_grad_() for t in (features, values, clusters.centers, clusters.positions)]
        with torch._dynamo.config.patch(error_on_recompile=call == 1):
            actual = torch.autograd.grad(compiled(*tracked, clusters.mass), tracked)
        for a, e in zip(actual, torch.autograd.grad(loss(*tracked, clusters.mass), tracked), strict=True):
            torch.testing.assert_close(a, e)


def test_bad_input():
    features, values, clusters, mask = inputs(torch.float32)
    with pytest.raises(TypeError, match=r"values: expected \[B,V,H,W\] of float32; found .* of float64"):
        soft_pool(features, values.double(), clusters, cell=4)
    with pytest.raises(ValueError, match=r"values: expected \[B,V,H,W\] = \[2,5,11,14\]"):
        soft_pool(features, values[:, :, 1:], clusters, cell=4)
    with pytest.raises(ValueError, match=r"centers: expected \[2, 42, 3\], one centre for each of the 6 x 7 cells"):
        soft_pool(features, values, clusters, cell=2)
    with pytest.raises(ValueError, match=r"mass: expected \[2, 12\]"):
        soft_pool(features, values, clusters._replace(mass=clusters.mass[:, 1:]), cell=4)
    with pytest.raises(ValueError, match="cell: expected an integer"):
        soft_pool(features, values, clusters, cell=0)
    with pytest.raises(ValueError, match="mask: expected"):
        soft_pool(features, values, clusters, cell=4, mask=mask[1:])
    with pytest.raises(ValueError, match="temperature: expected a finite number > 0"):
        soft_pool(features, values, clusters, cell=4, temperature=0.0)


def test_direct_call_of_the_operator_checks_sizes():
    features, values, (centers, positions, mass, _), mask = inputs(torch.float32)
    with pytest.raises(RuntimeError, match="values"):
        ops.soft_pool(features, values[..., 1:], centers, positions, mass, mask, None, 4, 1.0, 1.0)
    with pytest.raises(RuntimeError, match="grad_sums"):
        ops.soft_pool_backward(
            torch.zeros(2, 12, 4), mass, features, values, centers, positions, mass, mask, None, 4, 1.0, 1.0
        )
