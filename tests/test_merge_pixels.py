"""Merging from the pixels: the general merging on the graph of the pixels, for every backend."""

import pytest
import torch
from samples_tree import DISTANCES, SAMPLES, pixel_graph

import dhvt_kernels
from dhvt_kernels._schema import ops
from dhvt_kernels.ops import merge_pixels


def same(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_agrees_with_the_reference_bitwise(backend, dtype):
    for arguments in SAMPLES["merge_pixels"](dtype):
        actual = ops.merge_pixels(*arguments)
        with dhvt_kernels.backend("reference"):
            same(actual, ops.merge_pixels(*arguments))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "expanded"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_is_the_general_merging_on_the_grid(backend, distance, layout):
    image = torch.randint(0, 9, (2, 3, 13, 17)).float()
    if layout == "channels_last":
        image = image.contiguous(memory_format=torch.channels_last)
    elif layout == "sliced":
        image = image.repeat_interleave(2, 3)[..., ::2]
    elif layout == "expanded":
        image = image[:1, :1].expand(2, 3, -1, -1)
    expected = ops.merge_tree(*pixel_graph(image.contiguous()), distance, 0.2, 0)
    same(ops.merge_pixels(image, None, distance, 0.2, 0), expected)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(1, 2, 150, 170),
        (torch.arange(150)[:, None] + torch.arange(170)).remainder(2).float().expand(1, 1, -1, -1),
        torch.arange(150 * 170.0).reshape(1, 1, 150, 170),
        torch.randn(1, 1, 150, 170),
        torch.randn(1, 3, 1, 3000),
    ],
    ids=["constant", "checkerboard", "ramp", "noise", "one row"],
)
def test_images_of_several_strips(image):
    """Components that span strips, up to one of all pixels; on the CPU, whose merge_tree knows no strips."""
    expected = ops.merge_tree(*pixel_graph(image.contiguous()), "feature", 0.0, 0)
    same(ops.merge_pixels(image, None, "feature", 0.0, 0), expected)


def test_pixels_outside_the_mask_are_no_leaves(backend):
    image = torch.randn(1, 2, 6, 8)
    mask = torch.ones(1, 6, 8, dtype=torch.bool)
    mask[:, 4:] = mask[..., 5:] = False
    padded, alone = merge_pixels(image, mask=mask), merge_pixels(image[..., :4, :5].contiguous())
    assert (padded.round[0, :48].reshape(6, 8) == torch.where(mask[0], 0, -1)).all()
    for p, a in zip(padded.moments, alone.moments, strict=True):
        assert torch.equal(p[:, 48 : 48 + 19], a[:, 20:])
        assert not p[:, 48 + 19 :][padded.moments.count[:, 48 + 19 :] != 0].any()


def test_gradients(backend):
    features = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)

    def nodes(features):
        moments = merge_pixels(features, distance="feature").moments
        return moments.mean, moments.m2

    assert torch.autograd.gradcheck(nodes, (features,), atol=1e-6, fast_mode=backend == "triton-interpreted")


def test_compiles_without_a_graph_break(backend):
    def mean(features, mask):
        return merge_pixels(features, mask=mask).moments.mean.square().sum()

    features = torch.randn(2, 2, 5, 6, requires_grad=True)
    mask = torch.rand(2, 5, 6) < 0.8
    compiled = torch.compile(mean, fullgraph=True, backend="aot_eager")
    grads = [torch.autograd.grad(f(features, mask), features)[0] for f in (compiled, mean)]
    assert torch.equal(*grads)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": [1.0]}, TypeError, "features"),
        ({"features": torch.zeros(1, 2, 3)}, ValueError, r"\[B,C,H,W\]"),
        ({"features": torch.zeros(1, 2, 3, 4, dtype=torch.int32)}, TypeError, "features"),
        ({"mask": torch.ones(1, 4, 3, dtype=torch.bool)}, ValueError, "mask"),
        ({"mask": torch.ones(1, 3, 4)}, TypeError, "mask"),
        ({"distance": "euclidean"}, ValueError, "ward_length"),
        ({"compactness": -1.0}, ValueError, "compactness"),
        ({"noise": 0.0}, ValueError, "noise"),
        ({"depth": 0}, ValueError, "depth"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {"features": torch.zeros(1, 2, 3, 4), **change}
    with pytest.raises(error, match=message):
        merge_pixels(arguments.pop("features"), **arguments)
