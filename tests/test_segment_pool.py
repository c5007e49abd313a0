import pytest
import torch
from grid import DTYPES, LAYOUTS, assert_close, blocks, label_maps

from dhvt_kernels import backend as use_backend
from dhvt_kernels import reference
from dhvt_kernels._schema import ops
from dhvt_kernels.ops.segment_pool import dot, gather, segment_gather, segment_pool, segment_sum

B, C, H, W, K = 2, 5, 9, 13, 14
MAPS = tuple(label_maps(1, 8, 8, 4))


def labels_of(name, height=H, width=W):
    return label_maps(B, height, width, K)[name]


def oracle(features, labels, num_segments, weights=None):
    """Sum, mean, maximum and mass in float64, by multiplication with the indicator of every segment."""
    pixels = features.double().flatten(2).unsqueeze(1)  # [B,1,C,HW]
    member = (labels.flatten(1).unsqueeze(1) == torch.arange(num_segments)[:, None]).unsqueeze(2)  # [B,K,1,HW]
    weight = member.double() if weights is None else member * weights.double().flatten(1)[:, None, None]
    sums, mass = (pixels * weight).sum(-1), weight.sum(-1)
    top = pixels.masked_fill(~member, -torch.inf).amax(-1).masked_fill(~member.any(-1), 0)
    return {"sum": sums, "mean": sums / mass.masked_fill(mass == 0, 1), "max": top}, mass.squeeze(2)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pool(backend, dtype, layout, name):
    features, labels = torch.randn(B, C, H, W).to(dtype), labels_of(name)
    weights = torch.rand(B, H, W).to(dtype) + 0.5
    number = H * W if name == "pixels" else K
    expected, mass = oracle(features, labels, number)
    weighted, weighted_mass = oracle(features, labels, number, weights)
    features = LAYOUTS[layout](features)
    for reduce in ("sum", "mean", "max"):
        actual = segment_pool(features, labels, num_segments=number, reduce=reduce)
        assert actual.dtype == dtype
        assert_close(actual, expected[reduce], dtype, scale=4 if reduce == "sum" else 1)
    for reduce in ("sum", "mean"):
        actual = segment_pool(features, labels, num_segments=number, reduce=reduce, weights=weights)
        assert_close(actual, weighted[reduce], dtype, scale=4 if reduce == "sum" else 1)
    assert torch.equal(ops.segment_sum(features, labels, None, number)[1].double(), mass)
    assert_close(ops.segment_sum(features, labels, weights, number)[1], weighted_mass, torch.float32)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gather(backend, dtype, channels_last, name):
    values, labels, weights = torch.randn(B, K, C).to(dtype), labels_of(name), torch.randn(B, H, W).to(dtype)
    inside = (labels >= 0) & (labels < K)
    own = torch.stack([values[b].double()[labels[b].clamp(0, K - 1).long()] for b in range(B)]).permute(0, 3, 1, 2)
    own = torch.where(inside.unsqueeze(1), own, 0)
    actual = ops.segment_gather(values, labels, None, channels_last)
    assert torch.equal(actual.double(), own)
    assert actual.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    actual = ops.segment_gather(values, labels, weights, channels_last)
    assert_close(actual, own * weights.double().unsqueeze(1), dtype)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 5, 19])
def test_dot(backend, channels, dtype, layout, name):
    values, features = torch.randn(B, K, channels).to(dtype), torch.randn(B, channels, H, W).to(dtype)
    labels = labels_of(name)
    expected = (reference.segment_gather(values.double(), labels, None, False) * features.double()).sum(1)
    actual = ops.segment_dot(values, LAYOUTS[layout](features), labels)
    assert_close(actual, expected, torch.float64 if dtype == torch.float64 else torch.float32)


def test_many_strips_and_slots(backend):
    """Several strips per image, whose borders cut runs and segments; the sum of everything is the sum of the image."""
    features = torch.randn(2, 3, 90, 101)
    # Triton's interpreter takes seconds for each.
    layouts = [LAYOUTS["channels_last"]] if backend == "triton-interpreted" else LAYOUTS.values()
    for labels in label_maps(2, 90, 101, 500).values():
        for layout in layouts:
            sums, mass = ops.segment_sum(layout(features), labels, None, 90 * 101)
            inside = ((labels >= 0) & (labels < 90 * 101)).unsqueeze(1)
            assert_close(sums.sum(1), torch.where(inside, features.double(), 0).sum((2, 3)), torch.float32, scale=10)
            assert torch.equal(mass.sum(1), inside.sum((1, 2, 3)).float())


def test_few_segments_in_a_large_image(backend):
    """Large enough that several programs share a segment; ties of the maximum lie in all of their strips."""
    features, labels = torch.randint(-3, 4, (1, 2, 190, 181)).float(), blocks(1, 190, 181, 150)
    sums, mass = ops.segment_sum(features, labels, features[:, 0], 5)
    expected, of_mass = oracle(features, labels, 5, features[:, 0])
    assert torch.equal(sums.double(), expected["sum"])
    assert torch.equal(mass.double(), of_mass)
    found, right = ops.segment_max(features, labels, 5), reference.segment_max(features, labels, 5)
    assert all(map(torch.equal, found, right))


def test_ragged_tokens(backend):
    """Tokens [N,D] of several images, seen as one row of pixels: pooled without a copy."""
    tokens, labels = torch.randn(1451, 96), torch.sort(torch.randint(0, 9, (1451,))).values.int()
    actual = segment_pool(tokens.t()[None, :, None], labels[None, None], num_segments=9, reduce="sum")
    assert_close(actual[0], torch.zeros(9, 96).double().index_add(0, labels.long(), tokens.double()), torch.float32, 10)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_maximum_takes_nan_and_the_first_of_equals(backend, layout):
    features = torch.tensor([[[[1.0, 3.0, 3.0], [-torch.inf, torch.nan, 9.0], [torch.nan, -torch.inf, 7.0]]]])
    labels = torch.tensor([[[0, 0, 0], [1, 2, 2], [2, 1, 3]]], dtype=torch.int32)
    values, index = ops.segment_max(LAYOUTS[layout](features), labels, 5)
    expected = torch.tensor([3.0, -torch.inf, torch.nan, 7.0, 0.0])
    torch.testing.assert_close(values.flatten(), expected, equal_nan=True, rtol=0, atol=0)
    assert index.flatten().tolist() == [1, 3, 4, 8, -1]
    assert index.dtype == torch.int32


@pytest.mark.parametrize("name", MAPS)
def test_maximum_index_over_strips(backend, name):
    """Few different values, so that ties cross strips: the index is the first pixel in raster order."""
    features, labels = torch.randint(0, 3, (1, 2, 90, 101)).float(), label_maps(1, 90, 101, K)[name]
    for layout in LAYOUTS.values():
        values, index = ops.segment_max(layout(features), labels, K)
        for k in range(K):
            pixels = (labels[0] == k).flatten()
            for c in range(2):
                if not pixels.any():
                    assert index[0, k, c] == -1
                    continue
                of_segment = features[0, c].flatten().masked_fill(~pixels, -1)
                assert values[0, k, c] == of_segment.max()
                assert index[0, k, c] == (of_segment == of_segment.max()).nonzero()[0, 0]


def test_nan_stays_in_its_segment(backend):
    features, labels = torch.ones(1, 4, 8, 8), blocks(1, 8, 8, 4)
    features[0, :, 1, 1] = torch.nan
    labels[0, 7, 7] = -1
    features[0, :, 7, 7] = torch.inf
    for layout in LAYOUTS.values():
        for reduce in ("sum", "mean", "max"):
            out = segment_pool(layout(features), labels, num_segments=4, reduce=reduce)
            assert out[0, 0].isnan().all()
            assert out[0, 1:].isfinite().all()


def test_empty_segments_and_weights_that_cancel(backend):
    features = torch.tensor([[[[1.0, 4.0, 6.0]]]], requires_grad=True)
    weights = torch.tensor([[[1.0, -1.0, 2.0]]], requires_grad=True)
    labels = torch.tensor([[[0, 0, 1]]], dtype=torch.int32)
    out = segment_pool(features, labels, num_segments=3, weights=weights)
    assert out.flatten().tolist() == [0.0, 6.0, 0.0]
    out.sum().backward()
    assert features.grad.flatten().tolist() == [0.0, 0.0, 1.0]
    assert weights.grad.flatten().tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0), (1, 1, 1, 1)])
@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("reduce", ["mean", "sum", "max"])
def test_degenerate(backend, shape, number, reduce):
    features = torch.ones(shape, requires_grad=True)
    labels = torch.zeros(shape[0], *shape[2:], dtype=torch.int32)
    out = segment_pool(features, labels, num_segments=number, reduce=reduce)
    assert out.shape == (shape[0], number, shape[1])
    out.sum().backward()
    assert torch.equal(features.grad, torch.full(shape, 1.0 if number else 0.0))
    values = torch.ones(shape[0], number, shape[1])
    assert torch.equal(segment_gather(values, labels), torch.full(shape, 1.0 if number else 0.0))


def double(*size):
    return torch.randn(size, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients(memory_format):
    labels = torch.tensor([[[0, 0, 1], [2, 0, -1]]], dtype=torch.int32)
    features = torch.randn(1, 2, 2, 3, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
    weights = (torch.rand(1, 2, 3, dtype=torch.float64) + 0.5).requires_grad_()
    values = double(1, 3, 2)
    functions = [
        (lambda f: segment_pool(f, labels, num_segments=3), (features,)),
        (lambda f, w: segment_pool(f, labels, num_segments=3, weights=w), (features, weights)),
        (lambda f, w: segment_sum(f, labels, w, 3), (features, weights)),
        (lambda f: segment_pool(f, labels, num_segments=3, reduce="max"), (features,)),
        (lambda v, w: segment_gather(v, labels, weights=w), (values, weights)),
        (lambda v, w: gather(v, labels, w, True), (values, weights)),
        (lambda v, f: dot(v, f, labels), (values, features)),
    ]
    for function, inputs in functions:
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_have_the_dtype_and_layout_of_their_inputs(backend, dtype):
    labels = blocks(1, 8, 8, 4)
    features = torch.randn(1, 3, 8, 8, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    weights = torch.rand(1, 8, 8).requires_grad_()
    grads = torch.autograd.grad(
        segment_pool(features, labels, num_segments=4, weights=weights).sum(), (features, weights)
    )
    assert [g.dtype for g in grads] == [dtype, torch.float32]
    assert grads[0].is_contiguous(memory_format=torch.channels_last)
    values = torch.randn(1, 4, 3, dtype=dtype, requires_grad=True)
    assert torch.autograd.grad(segment_gather(values, labels, weights=weights).sum(), values)[0].dtype == dtype


def test_sum_gather_and_dot_are_one_form(backend):
    """<gather(g), f> = <g, sum(f)> = sum_i w_i dot(g, f)_i."""
    labels = labels_of("hostile")
    features, values, weights = (
        torch.randn(B, C, H, W).double(),
        torch.randn(B, K, C).double(),
        torch.randn(B, H, W).double(),
    )
    forms = [
        (gather(values, labels, weights, False) * features).sum(),
        (values * segment_sum(features, labels, weights, K)[0]).sum(),
        (weights * dot(values, features, labels)).sum(),
    ]
    torch.testing.assert_close(forms[0], forms[1])
    torch.testing.assert_close(forms[0], forms[2])


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_compile(reduce):
    def function(features, labels, weights):
        pooled = segment_pool(features, labels, num_segments=4, reduce=reduce, weights=weights)
        return segment_gather(pooled, labels).square().sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    labels = blocks(1, 8, 8, 4)
    for call in range(2):
        with torch._dynamo.config.patch(error_on_recompile=call == 1):
            features = torch.randn(1, 3, 8, 8, requires_grad=True)
            weights = None if reduce == "max" else torch.rand(1, 8, 8)
            actual = torch.autograd.grad(compiled(features, labels, weights), features)[0]
            torch.testing.assert_close(actual, torch.autograd.grad(function(features, labels, weights), features)[0])


def test_backends_agree_on_strides():
    features, labels = torch.randn(B, C, H, W), labels_of("noise")
    with use_backend("native"):
        native = segment_pool(features, labels, num_segments=K)
    with use_backend("reference"):
        assert native.stride() == segment_pool(features, labels, num_segments=K).stride()


FEATURES, LABELS = torch.ones(1, 3, 4, 5), torch.zeros(1, 4, 5, dtype=torch.int32)


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ((FEATURES[0], LABELS), {"num_segments": 1}, ValueError, r"features: expected \[B,C,H,W\]; found \[3,4,5\]"),
        ((FEATURES.int(), LABELS), {"num_segments": 1}, TypeError, "features: .*int32"),
        ((FEATURES, LABELS.long()), {"num_segments": 1}, TypeError, "labels: .*int64"),
        ((FEATURES, LABELS[:, :3]), {"num_segments": 1}, ValueError, r"labels: expected \[B,H,W\] = \[1,4,5\]"),
        ((FEATURES, LABELS), {"num_segments": 1, "weights": FEATURES}, ValueError, "weights"),
        ((FEATURES, LABELS), {"num_segments": -1}, ValueError, "num_segments: expected an integer >= 0; found -1"),
        ((FEATURES, LABELS), {"num_segments": 1.5}, TypeError, "num_segments: expected an integer"),
        ((FEATURES, LABELS), {"num_segments": 1, "reduce": "min"}, ValueError, "reduce: expected one of"),
        ((FEATURES, LABELS), {"num_segments": 1, "reduce": "max", "weights": FEATURES[:, 0]}, ValueError, "weights"),
        ((FEATURES, LABELS.to("meta")), {"num_segments": 1}, ValueError, "labels: expected device cpu"),
    ],
)
def test_bad_input(arguments, keywords, error, message):
    with pytest.raises(error, match=message):
        segment_pool(*arguments, **keywords)


def test_bad_input_of_gather():
    with pytest.raises(ValueError, match="labels"):
        segment_gather(torch.ones(2, 3, 4), LABELS)
    with pytest.raises(ValueError, match="weights"):
        segment_gather(torch.ones(1, 3, 4), LABELS, weights=torch.ones(1, 4, 4))


def test_the_kernels_check_their_sizes():
    with pytest.raises(RuntimeError, match="labels"):
        ops.segment_sum(FEATURES, LABELS[:, :3], None, 1)
    with pytest.raises(RuntimeError, match="num_segments"):
        ops.segment_sum(FEATURES, LABELS, None, -1)
    with pytest.raises(RuntimeError, match="values"):
        ops.segment_dot(torch.ones(1, 2, 4), FEATURES, LABELS)
