import pytest
import torch
from grid import DTYPES, LAYOUTS, assert_close, blocks, label_maps

from dhvt_kernels.ops.mean_inject import mean_inject
from dhvt_kernels.ops.segment_pool import segment_pool

B, C, H, W, K = 2, 5, 9, 13, 14
MAPS = tuple(label_maps(1, 8, 8, 4))


def oracle(image, tokens, labels):
    out = image.double().clone()
    for b in range(len(image)):
        for k in range(tokens.shape[1]):
            inside = labels[b] == k
            if inside.any():
                pixels = out[b][:, inside]
                out[b][:, inside] = pixels + (tokens[b, k].double()[:, None] - pixels.mean(1, keepdim=True))
    return out


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values(backend, dtype, layout, name):
    image, tokens, labels = (
        torch.randn(B, C, H, W).to(dtype),
        torch.randn(B, K, C).to(dtype),
        label_maps(B, H, W, K)[name],
    )
    expected = oracle(image, tokens, labels)
    actual = mean_inject(LAYOUTS[layout](image), tokens, labels)
    assert actual.dtype == dtype
    assert_close(actual, expected, dtype)
    channels_last = layout == "channels_last"
    assert actual.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixels_without_a_segment_are_copied(backend, layout):
    image, tokens = torch.randn(1, 3, 90, 101), torch.full((1, 4, 3), torch.nan)
    image[0, 0, 0, 0] = torch.inf
    labels = torch.full((1, 90, 101), -1, dtype=torch.int32)
    labels[:, 40:50, 20:30] = 7
    assert torch.equal(mean_inject(LAYOUTS[layout](image), tokens, labels), image)


def test_own_means_leave_the_image_unchanged(backend):
    image, labels = torch.rand(2, 3, 90, 101), blocks(2, 90, 101, 7)
    means = segment_pool(image, labels, num_segments=200)
    torch.testing.assert_close(mean_inject(image, means, labels), image, rtol=1e-6, atol=1e-6)


def test_the_new_means_are_the_tokens(backend):
    image, labels, tokens = torch.rand(2, 3, 90, 101), blocks(2, 90, 101, 7), torch.randn(2, 195, 3)
    out = mean_inject(image, tokens, labels)
    torch.testing.assert_close(segment_pool(out, labels, num_segments=195), tokens, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0), (1, 1, 1, 1)])
@pytest.mark.parametrize("number", [0, 2])
def test_degenerate(backend, shape, number):
    image, tokens = torch.ones(shape), torch.full((shape[0], number, shape[1]), 5.0)
    out = mean_inject(image, tokens, torch.zeros(shape[0], *shape[2:], dtype=torch.int32))
    assert torch.equal(out, torch.full(shape, 5.0 if number else 1.0))


def test_gradients():
    labels = torch.tensor([[[0, 0, 1], [2, 0, -1]]], dtype=torch.int32)
    image = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    tokens = torch.randn(1, 4, 2, dtype=torch.float64, requires_grad=True)
    for function in (mean_inject, lambda image, tokens, labels: mean_inject(image, tokens, labels).pow(3)):
        assert torch.autograd.gradcheck(lambda i, t: function(i, t, labels), (image, tokens))  # noqa: B023
        assert torch.autograd.gradgradcheck(lambda i, t: function(i, t, labels), (image, tokens))  # noqa: B023


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_have_the_dtype_of_their_inputs(backend, dtype):
    image, tokens = torch.randn(1, 3, 8, 8, dtype=dtype, requires_grad=True), torch.randn(1, 4, 3, requires_grad=True)
    grads = torch.autograd.grad(mean_inject(image, tokens, blocks(1, 8, 8, 4)).sum(), (image, tokens))
    assert [g.dtype for g in grads] == [dtype, torch.float32]


def test_compile():
    compiled = torch.compile(mean_inject, fullgraph=True, backend="aot_eager")
    labels = blocks(1, 8, 8, 4)
    for call in range(2):
        with torch._dynamo.config.patch(error_on_recompile=call == 1):
            image, tokens = torch.randn(1, 3, 8, 8, requires_grad=True), torch.randn(1, 4, 3, requires_grad=True)
            expected = mean_inject(image, tokens, labels)
            actual = compiled(image, tokens, labels)
            torch.testing.assert_close(actual, expected)
            for a, b in zip(
                torch.autograd.grad(actual.square().sum(), (image, tokens)),
                torch.autograd.grad(expected.square().sum(), (image, tokens)),
                strict=True,
            ):
                torch.testing.assert_close(a, b)


def test_bad_input():
    image, tokens, labels = torch.ones(1, 3, 4, 5), torch.ones(1, 2, 3), torch.zeros(1, 4, 5, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"tokens: expected \[B,K,C\] = \[1,2,3\]; found \[1,2,4\]"):
        mean_inject(image, torch.ones(1, 2, 4), labels)
    with pytest.raises(TypeError, match=r"labels: .*int64"):
        mean_inject(image, tokens, labels.long())
    with pytest.raises(TypeError, match="image: expected a tensor"):
        mean_inject([1.0], tokens, labels)
