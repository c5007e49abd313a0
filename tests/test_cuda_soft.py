"""The soft operators' CUDA kernels where their plan changes: many channels, cells of many patches, many blocks."""

import backends
import pytest
import torch
from grid import assert_close

from dhvt_kernels._schema import ops

pytestmark = pytest.mark.parametrize("cuda", backends.CUDA_OPERATORS)

NUMBERS = (2.0, 5.0)


def inputs(dtype, channels, height, width, batch=2):
    """Features with a pixel that is not finite, and a mask."""
    features = torch.randn(batch, channels, height, width, dtype=torch.float64).to(dtype)
    features[0, 0, 3, 2] = torch.nan
    mask = torch.rand(batch, height, width) > 0.05
    return features, mask


def everything(features, mask, cell, iterations=2):
    """Outputs of all six operators."""
    acc = torch.float64 if features.dtype == torch.float64 else torch.float32
    numbers = (cell, *NUMBERS)
    values = torch.linspace(-1, 1, features[:, :1].numel()).reshape(features[:, :1].shape).to(features.dtype)
    values = values * (1 + torch.arange(features.shape[1] + 2)).to(features.dtype)[:, None, None]
    states = ops.soft_cluster(features, mask, None, *numbers, iterations)
    state = [part[-1].to(acc) for part in states[:3]]
    given = [torch.cos(torch.arange(part.numel())).reshape(part.shape).to(acc) for part in state]
    assigned = ops.soft_assign(features, *state, mask, None, *numbers)
    pooled = ops.soft_pool(features, values, *state, mask, None, *numbers)
    of_sums, of_mass = (torch.sin(torch.arange(part.numel())).reshape(part.shape).to(acc) for part in pooled)
    upstream = torch.cos(torch.arange(assigned[0].numel())).reshape(assigned[0].shape).to(features.dtype)
    return (
        *states[:3],
        assigned[0],
        *pooled,
        *ops.soft_cluster_backward(*given, features, mask, None, *states[:3], *numbers, False),
        *ops.soft_assign_backward(upstream, features, *state, mask, None, *numbers),
        *ops.soft_pool_backward(of_sums, of_mass, features, values, *state, mask, None, *numbers),
    )


@pytest.mark.parametrize(
    ("dtype", "channels", "cell", "size"),
    [
        (torch.float32, 8, 4, (9, 13)),  # one chunk of 24 rows
        (torch.float32, 21, 7, (15, 18)),
        (torch.float32, 22, 8, (9, 17)),  # two chunks
        (torch.float32, 50, 10, (11, 12)),  # two patches per cell
        (torch.float32, 3, 13, (27, 30)),  # three
        (torch.float32, 24, 20, (21, 26)),  # more than one round
        (torch.float32, 2, 40, (41, 43)),  # more than one block per cell
        (torch.float64, 6, 5, (11, 12)),  # two chunks of 8 rows
        (torch.float64, 2, 36, (40, 20)),
    ],
)
def test_equals_the_reference(cuda, dtype, channels, cell, size):
    features, mask = inputs(dtype, channels, *size)
    with backends.use(cuda):
        found = everything(features, mask, cell)
    with backends.use("reference"):
        expected = everything(features.double(), mask, cell)
    for a, e in zip(found, expected, strict=True):
        scale = e.abs().max().clamp(min=1)
        assert_close(a / scale, e / scale, dtype, scale=20)


@pytest.mark.parametrize(("channels", "cell", "size"), [(3, 4, (10, 24)), (2, 20, (40, 60)), (22, 9, (18, 27))])
def test_groups_of_images_give_the_bits_of_one_alone(cuda, channels, cell, size):
    """Alone, an image has as many blocks as tiles, or fewer; three are taken in groups."""
    features, mask = inputs(torch.float32, channels, *size, batch=3)
    with backends.use(cuda):
        together = ops.soft_cluster(features, mask, None, cell, *NUMBERS, 3)
        for b in range(3):
            alone = ops.soft_cluster(features[b : b + 1], mask[b : b + 1], None, cell, *NUMBERS, 3)
            for a, e in zip(alone[:3], together[:3], strict=True):
                assert torch.equal(a[:, 0], e[:, b])
            assert torch.equal(alone[3][0], together[3][b])
