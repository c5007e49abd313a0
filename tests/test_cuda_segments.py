"""Reductions over segments in CUDA: what is of their tiles, and not of the operators."""

import backends
import pytest
import torch
from grid import DTYPES, assert_close, label_maps

from dhvt_kernels._schema import ops

pytestmark = pytest.mark.parametrize("cuda", backends.CUDA_OPERATORS)

CALLS = {
    "sum": lambda features, labels, k: ops.segment_sum(features, labels, None, k),
    "weighted": lambda features, labels, k: ops.segment_sum(features, labels, features[:, 0].abs().contiguous(), k),
    "max": ops.segment_max,
    "moments": ops.segment_moments,
}


def channels_last(t):
    return t.contiguous(memory_format=torch.channels_last)


def check(cuda, name, features, labels, num_segments, scale=20):
    """Against the reference in float64; whole numbers exactly. The outputs."""
    with backends.use("reference"):
        expected = CALLS[name](features.double(), labels, num_segments)
    with backends.use(cuda):
        actual = CALLS[name](features, labels, num_segments)
    # What is not a maximum is float32 even for half features.
    accumulation = torch.float64 if features.dtype == torch.float64 else torch.float32
    for a, e in zip(actual, expected, strict=True):
        if a.is_floating_point():
            assert_close(a, e, accumulation, scale)
        else:
            assert torch.equal(a, e)
    return actual


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("map_name", label_maps(1, 8, 8, 4))
def test_many_adjacent_channels(cuda, name, map_name):
    """Lanes are channels: tiles of 64 pixels, of which some are cut; more channels than a block has threads."""
    labels = label_maps(2, 11, 19, 6)[map_name]
    for channels in (32, 133):
        check(cuda, name, channels_last(torch.randn(2, channels, 11, 19)), labels, 11 * 19)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["sum", "max", "moments"])
def test_many_adjacent_channels_in_every_dtype(cuda, name, dtype):
    labels = label_maps(1, 11, 19, 6)["hostile"]
    check(cuda, name, channels_last(torch.randn(1, 40, 11, 19)).to(dtype), labels, 6)


@pytest.mark.parametrize("name", ["sum", "max", "moments"])
@pytest.mark.parametrize("height", [1, 2, 3])
def test_few_rows(cuda, name, height):
    labels = torch.randint(-1, 5, (1, height, 200), dtype=torch.int32).sort(-1).values
    check(cuda, name, channels_last(torch.randn(1, 48, height, 200)), labels, 5)
    check(cuda, name, torch.randn(1, 2, height, 200), labels, 5)


@pytest.mark.parametrize("name", ["sum", "max", "moments"])
def test_labels_far_apart(cuda, name):
    """More labels than a tile numbers at a time: few of them in a tile, and more than 512."""
    num_segments = 40_000
    for sparse in (True, False):
        labels = torch.randint(0, num_segments, (1, 40, 70), dtype=torch.int32)
        if sparse:
            labels = labels[:, ::8, ::8].repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :40, :70].contiguous()
        labels[0, 0, 0], labels[0, -1, -1], labels[0, 5, 5] = num_segments - 1, num_segments, -7
        check(cuda, name, torch.randn(1, 2, 40, 70), labels, num_segments)


@pytest.mark.parametrize("shape", [(2150, 5), (5, 4300)])
def test_more_tiles_than_bits(cuda, shape):
    """Segments in far corners, in all tiles, and in one; 64 bits stand for the rows of tiles."""
    labels = torch.zeros(1, *shape, dtype=torch.int32)
    labels[0, :3, :3] = labels[0, -3:, -3:] = 1
    labels[0, shape[0] // 2, shape[1] // 2] = 2
    labels[0, ::31, ::17] = 3
    features = torch.randn(1, 1, *shape)
    check(cuda, "moments", features, labels, 5)
    check(cuda, "max", features, labels, 5)


@pytest.mark.parametrize("name", ["sum", "moments"])
def test_the_order_changes_no_bit(cuda, name):
    """Segments that go on over several chunks of records and many tiles, patches of many labels, both kinds of tile."""
    labels = torch.randint(0, 3, (1, 70, 130), dtype=torch.int32)
    labels[0, :40, :40] = torch.randint(0, 300, (40, 40), dtype=torch.int32)
    labels[0, 40:] = 1
    for features in (torch.randn(1, 5, 70, 130), channels_last(torch.randn(1, 32, 70, 130))):
        with backends.use(cuda):
            first, *others = (CALLS[name](features, labels, 300) for _ in range(4))
        for other in others:
            for a, b in zip(first, other, strict=True):
                assert torch.equal(a, b)
        check(cuda, name, features, labels, 300, scale=100)


@pytest.mark.parametrize("channels", [3, 32])
def test_neighbours_of_very_different_values(cuda, channels):
    """A segment's deviations do not suffer from what else is in its tile."""
    labels = label_maps(1, 32, 64, 4)["blocks"]
    deviations = torch.randn(1, channels, 32, 64)
    features = deviations + 1e4 * (labels % 3).unsqueeze(1)
    expected = ops.segment_moments(features.double(), labels, 128)[2]
    for layout in (torch.Tensor.contiguous, channels_last):
        with backends.use(cuda):
            m2 = ops.segment_moments(layout(features), labels, 128)[2]
        torch.testing.assert_close(m2.double(), expected, rtol=1e-4, atol=0)
