"""Statistics of segments, against float64 and by hand."""

import pytest
import torch
from grid import DTYPES, LAYOUTS, TOLERANCE, assert_close, blocks, label_maps
from torch._dynamo.testing import CompileCounter

from dhvt_kernels.ops.segment_moments import Moments, segment_moments
from dhvt_kernels.reference.segment_moments import segment_moments as reference

MAPS = ("blocks", "one", "none", "pixels", "noise", "hostile", "padded")


def brute_force(features, labels, num_segments):
    """One pixel after the other, from the definitions."""
    batch, channels, height, width = features.shape
    rows = [[] for _ in Moments._fields]
    for b in range(batch):
        for k in range(num_segments):
            inside = labels[b] == k
            pixels, places = features[b][:, inside].double(), inside.nonzero()
            n = len(places)
            mean = pixels.mean(1) if n else torch.zeros(channels, dtype=torch.float64)
            pairs = 0
            for y, x in places.tolist():
                for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                    if 0 <= v < height and 0 <= u < width:
                        pairs += int(labels[b, v, u] != k and 0 <= labels[b, v, u] < num_segments)
            values = (
                torch.tensor(n),
                mean,
                ((pixels - mean[:, None]) ** 2).sum(1),
                places.double().mean(0) if n else torch.zeros(2, dtype=torch.float64),
                torch.cat((places.amin(0), places.amax(0))) if n else torch.tensor([0, 0, -1, -1]),
                torch.tensor(pairs),
            )
            for row, value in zip(rows, values, strict=True):
                row.append(value)
    return Moments(*(torch.stack(row).unflatten(0, (batch, num_segments)) for row in rows))


def check_moments(actual, expected, dtype, scale=1.0):
    accumulation = torch.float64 if dtype == torch.float64 else torch.float32
    for name, a, e in zip(Moments._fields, actual, expected, strict=True):
        if name in ("mean", "m2", "centroid"):
            assert a.dtype == accumulation, name
            # The outputs are float32 even for half features, so their rounding is no excuse.
            assert_close(a, e, accumulation, scale)
        else:
            assert a.dtype == torch.int32, name
            torch.testing.assert_close(a.long(), e.long(), rtol=0, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MAPS)
def test_grid(backend, name, dtype, layout):
    height, width = 13, 18
    num_segments = height * width if name == "pixels" else 20
    labels = label_maps(2, height, width, 20)[name]
    features = LAYOUTS[layout](torch.randn(2, 5, height, width).to(dtype))
    expected = reference(features.double(), labels, num_segments)
    check_moments(segment_moments(features, labels, num_segments=num_segments), expected, dtype, scale=4)


@pytest.mark.parametrize("name", ["blocks", "noise", "hostile", "padded"])
def test_definitions(backend, name):
    labels = label_maps(2, 7, 9, 6)[name]
    features = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    check_moments(segment_moments(features, labels, num_segments=6), brute_force(features, labels, 6), torch.float64)


def test_several_strips(backend):
    """Segments that span many tasks, rows that tasks cut, and a channel count that changes the tasks' size."""
    for channels in (1, 3, 64):
        labels = blocks(2, 90, 301, 37)
        features = torch.randn(2, channels, 90, 301)
        expected = reference(features.double(), labels, 27)
        check_moments(segment_moments(features, labels, num_segments=27), expected, torch.float32, scale=5)


def test_known_answer(backend):
    labels = torch.tensor([[[0, 0, 1], [0, 2, 1], [-1, 2, 2]]], dtype=torch.int32)
    features = torch.arange(9.0).reshape(1, 1, 3, 3)
    moments = segment_moments(features, labels, num_segments=4)
    assert moments.count.tolist() == [[3, 2, 3, 0]]
    torch.testing.assert_close(moments.mean[0, :, 0], torch.tensor([4 / 3, 3.5, 19 / 3, 0]))
    torch.testing.assert_close(moments.m2[0, :, 0], torch.tensor([14 / 3, 4.5, 26 / 3, 0]))
    torch.testing.assert_close(moments.centroid[0], torch.tensor([[1 / 3, 1 / 3], [0.5, 2], [5 / 3, 4 / 3], [0, 0]]))
    assert moments.box.tolist() == [[[0, 0, 1, 1], [0, 2, 1, 2], [1, 1, 2, 2], [0, 0, -1, -1]]]
    # 0|1 once, 0|2 twice, 1|2 twice; the pixel without a segment makes no boundary.
    assert moments.boundary.tolist() == [[3, 3, 4, 0]]


def test_large_offset_keeps_the_variance(backend):
    """The variance is 0.01, the resolution of float32 at 1e4 is 0.001: E[x^2] - E[x]^2 would be wrong by about 10."""
    features = 1e4 + 0.1 * torch.randn(1, 2, 64, 64)
    labels = blocks(1, 64, 64, 16)
    expected = reference(features.double(), labels, 16)
    actual = segment_moments(features, labels, num_segments=16)
    assert (expected[2] / 256 - 0.01).abs().max() < 0.005
    torch.testing.assert_close(actual.m2.double(), expected[2], rtol=1e-2, atol=0)
    torch.testing.assert_close(actual.mean.double(), expected[1], rtol=1e-6, atol=0)


def test_padding_changes_nothing(backend):
    labels, features = blocks(1, 12, 20, 5), torch.randn(1, 3, 12, 20)
    padded_labels = torch.nn.functional.pad(labels, (0, 7, 0, 9), value=-1)
    padded_features = torch.nn.functional.pad(features, (0, 7, 0, 9), value=float("nan"))
    for out_of_range in (-1, 12, 2**31 - 1):
        hostile = torch.where(padded_labels < 0, out_of_range, padded_labels)
        actual = segment_moments(padded_features, hostile, num_segments=12)
        check_moments(actual, segment_moments(features, labels, num_segments=12), torch.float32)


def test_batch_is_independent(backend):
    labels = torch.cat([blocks(1, 40, 60, side) for side in (4, 9, 60)])
    features = torch.randn(3, 3, 40, 60)
    together = segment_moments(features, labels, num_segments=150)
    for b in range(3):
        alone = segment_moments(features[b : b + 1], labels[b : b + 1], num_segments=150)
        for a, t in zip(alone, together, strict=True):
            assert torch.equal(a[0], t[b])


def test_not_finite_stays_in_its_segment(backend):
    labels, features = blocks(1, 16, 16, 4), torch.randn(1, 2, 16, 16)
    clean = segment_moments(features, labels, num_segments=16)
    features[0, 0, 5, 5], features[0, 1, 0, 0] = float("nan"), float("inf")
    actual = segment_moments(features, labels, num_segments=16)
    for name in ("mean", "m2"):
        a, c = getattr(actual, name)[0], getattr(clean, name)[0]
        assert not a[5, 0].isfinite()
        assert not a[0, 1].isfinite()
        same = torch.ones(16, 2, dtype=torch.bool)
        same[5, 0] = same[0, 1] = False
        assert torch.equal(a[same], c[same])


def test_degenerate_sizes(backend):
    for shape, num_segments in (
        ((0, 3, 4, 5), 3),
        ((2, 3, 0, 5), 3),
        ((2, 3, 4, 0), 3),
        ((2, 0, 4, 5), 3),
        ((2, 3, 4, 5), 0),
    ):
        labels = torch.zeros(shape[0], *shape[2:], dtype=torch.int32)
        moments = segment_moments(torch.ones(shape), labels, num_segments=num_segments)
        assert moments.mean.shape == (shape[0], num_segments, shape[1])
        assert moments.box.shape == (shape[0], num_segments, 4)
        assert moments.count.sum() == (labels.numel() if num_segments else 0)
    one = segment_moments(torch.full((1, 1, 1, 1), 7.0), torch.zeros(1, 1, 1, dtype=torch.int32), num_segments=1)
    assert [t.flatten().tolist() for t in one] == [[1], [7.0], [0.0], [0.0, 0.0], [0, 0, 0, 0], [0]]


@pytest.mark.parametrize("name", ["blocks", "noise", "hostile", "padded", "pixels"])
def test_gradcheck(backend, name):
    labels = label_maps(2, 5, 6, 7)[name]
    features = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    # In Triton's interpreter a call takes so long that one direction has to do; the gradient grid compares all numbers.
    fast = backend == "triton-interpreted"
    torch.autograd.gradcheck(lambda f: segment_moments(f, labels, num_segments=30)[1:3], features, fast_mode=fast)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_grid(backend, dtype, layout):
    labels = label_maps(2, 13, 18, 20)["hostile"]
    features = LAYOUTS[layout](torch.randn(2, 3, 13, 18).to(dtype))
    weights = torch.randn(2, 2, 20, 3)

    def gradient(f):
        f = f.detach().requires_grad_()
        moments = segment_moments(f, labels, num_segments=20)
        ((moments.mean * weights[0].to(moments.mean)).sum() + (moments.m2 * weights[1].to(moments.m2)).sum()).backward()
        return f.grad

    actual = gradient(features)
    assert actual.dtype == dtype
    assert actual.is_contiguous(memory_format=torch.channels_last) == (layout == "channels_last")
    assert_close(actual, gradient(features.double()), dtype, scale=4)


def test_one_gradient_is_enough(backend):
    labels, features = blocks(1, 4, 4, 2), torch.randn(1, 1, 4, 4, requires_grad=True)
    segment_moments(features, labels, num_segments=4).mean.sum().backward()
    torch.testing.assert_close(features.grad, torch.full_like(features, 0.25))


def test_only_features_have_gradients():
    labels, features = blocks(1, 4, 4, 2), torch.randn(1, 1, 4, 4, requires_grad=True)
    moments = segment_moments(features, labels, num_segments=4)
    assert [t.requires_grad for t in moments] == [False, True, True, False, False, False]
    gradient = torch.autograd.grad(moments.m2.square().sum(), features, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_compile_without_recompiling():
    counter = CompileCounter()
    labels = blocks(2, 20, 30, 5)

    @torch.compile(fullgraph=True, backend=counter)
    def counted(features, labels):
        return segment_moments(features, labels, num_segments=24)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(features, labels):
        return segment_moments(features, labels, num_segments=24)

    for _ in range(3):
        features = torch.randn(2, 3, 20, 30, requires_grad=True)
        actual = compiled(features, labels)
        expected = segment_moments(features, labels, num_segments=24)
        for a, e in zip(actual, expected, strict=True):
            assert torch.equal(a, e)
        gradients = [torch.autograd.grad((m.mean + m.m2).sum(), features)[0] for m in (actual, expected)]
        assert torch.equal(*gradients)
        counted(features, labels)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (([1], None, 3), TypeError, r"features: expected a tensor \[B,C,H,W\]; found list"),
        ((torch.ones(1, 1, 2, 2, dtype=torch.int32), None, 3), TypeError, r"features: expected \[B,C,H,W\] of float32"),
        ((torch.ones(1, 2, 2), None, 3), ValueError, r"features: expected \[B,C,H,W\]"),
        ((torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2).long(), 3), TypeError, r"labels: expected \[B,H,W\] of int32"),
        (
            (torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 3).int(), 3),
            ValueError,
            r"labels: expected \[B,H,W\] = \[1,2,2\]",
        ),
        ((torch.ones(1, 1, 2, 2), None, -1), ValueError, "num_segments: expected an integer >= 0; found -1"),
        ((torch.ones(1, 1, 2, 2), None, 2.0), TypeError, "num_segments: expected an integer; found float"),
    ],
)
def test_bad_input(arguments, error, match):
    features, labels, num_segments = arguments
    labels = torch.zeros(1, 2, 2, dtype=torch.int32) if labels is None else labels
    with pytest.raises(error, match=match):
        segment_moments(features, labels, num_segments=num_segments)


def test_tolerances_are_not_vacuous():
    """The comparison used above sees a wrong deviation in one pixel of a segment of many."""
    features, labels = torch.randn(1, 1, 32, 32), torch.zeros(1, 32, 32, dtype=torch.int32)
    moments = segment_moments(features, labels, num_segments=1)
    wrong = Moments(*moments)._replace(m2=moments.m2 * (1 + 100 * TOLERANCE[torch.float32]))
    with pytest.raises(AssertionError):
        check_moments(wrong, reference(features.double(), labels, 1), torch.float32)
