"""Information criteria, against distributions and textbook values."""

import math

import pytest
import torch
from grid import assert_close, blocks
from torch._dynamo.testing import CompileCounter

from dhvt_kernels.ops.information_criterion import CRITERIA, criterion_terms, information_criterion
from dhvt_kernels.ops.segment_moments import Moments, segment_moments
from dhvt_kernels.reference.information_criterion import information_criterion as reference


def make(count, m2=None, boundary=None):
    """Moments with the three tensors that matter; count and boundary are nested lists [B,V]."""
    count = torch.as_tensor(count, dtype=torch.int32)
    m2 = torch.ones(*count.shape, 3, dtype=torch.float64) if m2 is None else m2
    boundary = torch.zeros_like(count) if boundary is None else torch.as_tensor(boundary, dtype=torch.int32)
    empty = torch.zeros(0)
    return Moments(count, empty, m2, empty, empty, boundary)


def random_moments(dtype=torch.float64, nodes=40):
    count = torch.randint(0, 300, (2, nodes), dtype=torch.int32)
    m2 = (count.unsqueeze(-1) * 50 * torch.rand(2, nodes, 3, dtype=torch.float64)).to(dtype)
    return make(count, m2, torch.randint(0, 60, (2, nodes), dtype=torch.int32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_grid(backend, criterion, dtype):
    moments = random_moments(dtype)
    pixels = moments.count.sum(1, dtype=torch.int32)
    expected = reference(moments.count, moments.m2.double(), moments.boundary, pixels, criterion, 16.0, 4.0)
    actual = criterion_terms(moments, criterion=criterion)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        assert_close(a, e, dtype)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_likelihood_is_that_of_the_distribution(backend, offset):
    """-2 log prob of every pixel under the Gaussian with the segment's mean and variance + noise, from the pixels."""
    noise, rho = 0.3, 2.5
    features, labels = offset + torch.randn(1, 3, 12, 12, dtype=torch.float64), blocks(1, 12, 12, 4)
    moments = segment_moments(features, labels, num_segments=9)
    likelihood, _ = criterion_terms(moments, noise=noise, pixel_correlation=rho)
    for k in range(9):
        pixels = features[0][:, labels[0] == k]
        variance = pixels.var(1, correction=0, keepdim=True) + noise
        normal = torch.distributions.Normal(pixels.mean(1, keepdim=True), variance.sqrt())
        torch.testing.assert_close(likelihood[0, k], -2 * normal.log_prob(pixels).sum() / rho, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("channels", [1, 3, 8, 400])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_logarithms_neither_overflow_nor_underflow(backend, channels, size):
    """The product of many large or small variances is out of range; their logarithms are not."""
    m2 = size * (1 + torch.rand(1, 5, channels, dtype=torch.float64))
    moments = make([[1, 2, 30, 400, 5000]], m2)
    variance = m2 / moments.count.unsqueeze(-1) + 0.5 * size
    expected = (moments.count.unsqueeze(-1) * (2 * math.pi * variance).log() + m2 / variance).sum(-1)
    likelihood, _ = criterion_terms(moments, noise=0.5 * size, pixel_correlation=1.0)
    torch.testing.assert_close(likelihood, expected, rtol=1e-11, atol=0)


def test_textbook_values(backend):
    """One segment that is the whole image: k = 2 C parameters of n = 100 samples."""
    moments, d, n = make([[100]]), 6, 100
    expected = {
        "aic": 2 * d,
        "aicc": 2 * d + 2 * d * (d + 1) / (n - d - 1),
        "bic": d * math.log(n),
        "hqc": 2 * d * math.log(math.log(n)),
        "cic": d * (math.log(n) + 1),
        "mdl": d * math.log(1 + n),
    }
    assert set(expected) == set(CRITERIA)
    for criterion, value in expected.items():
        _, penalty = criterion_terms(moments, criterion=criterion, pixel_correlation=1.0)
        assert penalty.item() == pytest.approx(value, rel=1e-12)


def test_pixel_correlation_and_boundary(backend):
    """rho divides every sample size; the boundary costs ln 3 per step, of which rho leaves the square root."""
    moments = make([[100, 300]], boundary=[[20, 20]])
    for criterion, expected in {
        "aicc": [12 + 84 / (25 - 7), 12 + 84 / (75 - 7)],
        "bic": [6 * math.log(100)] * 2,
        "mdl": [6 * math.log(26) + 10 * math.log(3), 6 * math.log(76) + 10 * math.log(3)],
    }.items():
        _, penalty = criterion_terms(moments, criterion=criterion, pixel_correlation=4.0)
        torch.testing.assert_close(penalty[0], torch.tensor(expected, dtype=torch.float64))


def test_sum_over_a_partition_is_textbook_bic(backend):
    """-2 ln L + k ln n, with k = all parameters of the partition."""
    features, labels = torch.randn(1, 2, 10, 10, dtype=torch.float64), blocks(1, 10, 10, 5)
    moments = segment_moments(features, labels, num_segments=4)
    cost = information_criterion(moments, criterion="bic", noise=1.0, pixel_correlation=1.0).sum()
    minus_two_log_likelihood = 0.0
    for k in range(4):
        pixels = features[0][:, labels[0] == k]
        deviation = (pixels.var(1, correction=0, keepdim=True) + 1).sqrt()
        normal = torch.distributions.Normal(pixels.mean(1, keepdim=True), deviation)
        minus_two_log_likelihood -= 2 * normal.log_prob(pixels).sum().item()
    assert cost.item() == pytest.approx(minus_two_log_likelihood + 4 * 4 * math.log(100), rel=1e-12)


@pytest.mark.parametrize("pixel_correlation", [0.5, 1.0, 4.0, 1e6])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_penalties_are_positive_and_subadditive(backend, criterion, pixel_correlation):
    """What makes cuts nested: a parent's penalty is at most its children's together, down to single pixels."""
    sizes = torch.tensor([1, 2, 3, 7, 20, 100, 5000])
    a, b = (part.flatten() for part in torch.meshgrid(sizes, sizes, indexing="ij"))
    edge_a, edge_b, common = 4 * a, 4 * b, torch.minimum(a, b)
    count, boundary = torch.stack((a, b, a + b)), torch.stack((edge_a, edge_b, edge_a + edge_b - 2 * common))
    total = torch.full((3,), 10000, dtype=torch.int32)
    moments = make(count, boundary=boundary)
    _, penalty = criterion_terms(moments, criterion=criterion, pixel_correlation=pixel_correlation, num_pixels=total)
    assert penalty.isfinite().all()
    assert (penalty > 0).all()
    assert (penalty[2] <= penalty[0] + penalty[1]).all()
    _, tiny = criterion_terms(make([[1]]), criterion=criterion, pixel_correlation=pixel_correlation)
    assert 0 < tiny.item() < math.inf


def test_small_images_count_as_four_samples(backend):
    for criterion in ("bic", "hqc", "cic"):
        penalties = [
            criterion_terms(make([[n]]), criterion=criterion, pixel_correlation=4.0)[1].item() for n in (1, 7, 16, 17)
        ]
        assert penalties[0] == penalties[1] == penalties[2] < penalties[3]


def test_empty_nodes_cost_nothing(backend):
    for criterion in CRITERIA:
        terms = criterion_terms(make([[0, 5]], boundary=[[3, 3]]), criterion=criterion)
        assert all(term[0, 0] == 0 and term[0, 1] != 0 for term in terms)


def test_num_pixels_defaults_to_the_sum(backend):
    moments = make([[100, 300]])
    _, given = criterion_terms(moments, num_pixels=torch.tensor([400], dtype=torch.int32))
    _, other = criterion_terms(moments, num_pixels=torch.tensor([800], dtype=torch.int32))
    _, default = criterion_terms(moments)
    assert torch.equal(default, given)
    assert (other > given).all()


def test_strength(backend):
    moments = make([[100, 300], [5, 6]])
    likelihood, penalty = criterion_terms(moments)
    assert torch.equal(information_criterion(moments), likelihood + penalty)
    assert torch.equal(information_criterion(moments, strength=2.5), likelihood + 2.5 * penalty)
    strength = torch.tensor([[2.0], [3.0]], dtype=torch.float64, requires_grad=True)
    cost = information_criterion(moments, strength=strength)
    assert torch.equal(cost, likelihood + strength * penalty)
    (gradient,) = torch.autograd.grad(cost.sum(), strength)
    torch.testing.assert_close(gradient, penalty.sum(1, keepdim=True))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_gradcheck(backend, criterion):
    moments = random_moments(nodes=6)
    m2 = moments.m2.clone().requires_grad_()

    def cost(m2):
        return information_criterion(moments._replace(m2=m2), criterion=criterion, noise=2.0, pixel_correlation=1.5)

    torch.autograd.gradcheck(cost, m2)


def test_gradient_reaches_the_likelihood_only():
    m2 = torch.ones(1, 2, 3, requires_grad=True)
    likelihood, penalty = criterion_terms(make([[4, 5]], m2))
    assert likelihood.requires_grad
    assert not penalty.requires_grad
    (gradient,) = torch.autograd.grad(likelihood.square().sum(), m2, create_graph=True)
    assert gradient.dtype == torch.float32
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_nan_stays_in_its_node(backend):
    m2 = torch.ones(1, 3, 3, dtype=torch.float64)
    clean = information_criterion(make([[4, 5, 6]], m2))
    m2[0, 1, 0] = float("nan")
    cost = information_criterion(make([[4, 5, 6]], m2))
    assert cost[0, 1].isnan()
    assert torch.equal(cost[0, ::2], clean[0, ::2])


def test_degenerate_sizes(backend):
    for shape in ((0, 4), (2, 0)):
        cost = information_criterion(make(torch.zeros(shape)))
        assert cost.shape == shape


def test_compile_without_recompiling():
    counter = CompileCounter()
    for backend_name in (counter, "aot_eager"):
        compiled = torch.compile(information_criterion, fullgraph=True, backend=backend_name)
        for _ in range(3):
            moments = random_moments(torch.float32)
            moments = moments._replace(m2=moments.m2.requires_grad_())
            actual, expected = compiled(moments), information_criterion(moments)
            torch.testing.assert_close(actual, expected)
            gradients = [torch.autograd.grad(cost.sum(), moments.m2)[0] for cost in (actual, expected)]
            torch.testing.assert_close(*gradients)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"moments": (1, 2)}, TypeError, "moments: expected Moments; found tuple"),
        ({"criterion": "dic"}, ValueError, "criterion: expected one of aic, .*, mdl; found 'dic'"),
        ({"noise": 0.0}, ValueError, "noise: expected a finite number > 0; found 0.0"),
        ({"noise": float("nan")}, ValueError, "noise: expected a finite number > 0; found nan"),
        ({"pixel_correlation": -1.0}, ValueError, "pixel_correlation: expected a finite number > 0"),
        ({"strength": -1.0}, ValueError, "strength: expected a finite number >= 0"),
        ({"strength": torch.ones(2, 1)}, ValueError, r"strength: expected \[B,1\] = \[1,1\]"),
        ({"num_pixels": torch.ones(1)}, TypeError, r"num_pixels: expected \[B\] of int32"),
        ({"num_pixels": torch.ones(2).int()}, ValueError, r"num_pixels: expected \[B\] = \[1\]"),
        ({"moments": make([[1]])._replace(boundary=torch.ones(1, 2).int())}, ValueError, r"boundary: expected \[B,V\]"),
    ],
)
def test_bad_input(change, error, match):
    with pytest.raises(error, match=match):
        information_criterion(**{"moments": make([[4]]), **change})
