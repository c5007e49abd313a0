"""The CUDA kernels, on a GPU or emulated (docs/emulation.md); the operators' own tests run on them, too."""

import ctypes

import backends
import numpy as np
import pytest
import torch
from grid import DTYPES, assert_close
from samples import SAMPLES
from test_operators import call, check_against_reference, flat
from torch.utils._python_dispatch import TorchDispatchMode

import dhvt_kernels as dk

KERNELS = [(backend, name) for backend, operators in backends.CUDA_OPERATORS.items() for name in operators]
pytestmark = pytest.mark.skipif(not KERNELS, reason="no GPU, and the emulation was not built: make test builds it")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("cuda", "name"), KERNELS)
def test_equals_the_reference(cuda, name, dtype):
    check_against_reference(cuda, name, dtype)


@pytest.mark.parametrize(("cuda", "name"), KERNELS)
def test_the_order_of_threads_and_blocks_changes_no_bit(cuda, name):
    """Each launch of the emulation takes another order, so a barrier that is missing, or a race, shows."""
    arguments = SAMPLES[name](torch.float32)[0]
    with backends.use(cuda):
        first, *others = (call(name, arguments) for _ in range(7))
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert torch.equal(a.view(torch.uint8) if a.dim() else a, b.view(torch.uint8) if b.dim() else b)


LABELS = torch.tensor([[[0, 1], [0, 0]]], dtype=torch.int32)
BOXES = torch.tensor([[[0, 0, 1, 1], [0, 1, 0, 1]]], dtype=torch.int32)
FAR = {
    "srgb_to_lab": dk.srgb_to_lab,
    "gaussian_blur": lambda image: dk.gaussian_blur(image, sigma=0.7),
    "soft_cluster": lambda image: dk.soft_cluster(image, cell=1, iterations=2, compactness=1.0, temperature=1.0),
    "connected_components": lambda image: dk.connected_components(LABELS, features=image, min_size=2),
    "segment_moments": lambda image: dk.segment_moments(image, LABELS, num_segments=2),
    "segment_sum": lambda image: dk.segment_pool(image, LABELS, num_segments=2),
    "segment_max": lambda image: dk.segment_pool(image, LABELS, num_segments=2, reduce="max"),
    "mean_inject": lambda image: dk.mean_inject(image, torch.ones(1, 2, 3, dtype=image.dtype), LABELS),
    "token_patches": lambda image: dk.token_patches(image, LABELS, BOXES, size=3),
}


@pytest.mark.parametrize("cuda", [*backends.NATIVE, *backends.CUDA_OPERATORS])
@pytest.mark.parametrize("name", FAR)
def test_pixels_that_lie_more_than_2_to_the_31_elements_apart(cuda, name):
    """Memory that is never touched is never there: 4 GB of addresses, and a few pages."""
    image = torch.rand(1, 3, 2, 2, dtype=torch.float16)
    far = torch.from_numpy(np.zeros(2**31 + 16, np.float16)).as_strided(image.shape, (0, 1, 3, 2**31))
    far.copy_(image)
    with backends.use(cuda):
        for found, expected in zip(flat(FAR[name](far)), flat(FAR[name](image)), strict=True):
            assert_close(found, expected, torch.float16)


class Kernels(TorchDispatchMode):
    """Counts torch's own operators that launch something: all but views."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function.namespace == "aten" and not function.is_view and function is not torch.ops.aten.detach.default:
            self.names.append(str(function))
        return out


@pytest.mark.skipif("cuda-emulated" not in backends.CUDA_OPERATORS, reason="the emulation was not built")
@pytest.mark.parametrize("batch", [1, 4])
def test_the_tokenizer_takes_at_most_30_launches(batch):
    """Ours, torch's, and a fill for each tensor of zeros; on a GPU, tests/test_gpu.py counts what its graph holds."""
    count = ctypes.CDLL(str(backends.LIBRARY)).emulated_launches
    images = torch.nn.functional.interpolate(torch.rand(batch, 3, 8, 8), size=(56, 72), mode="bicubic").clamp(0, 1)
    tokenizer = dk.Tokenizer(max_tokens=16)
    with torch.no_grad():
        expected = tokenizer(images)
        with backends.use("cuda-emulated"):
            before = count()
            with Kernels() as glue:
                found = tokenizer(images)
            launches = count() - before + len(glue.names)
    assert 20 < launches <= 30, glue.names
    assert torch.equal(found.counts, expected.counts)
    assert (found.labels == expected.labels).float().mean() > 0.99


@pytest.mark.skipif("cuda-emulated" not in backends.CUDA_OPERATORS, reason="the emulation was not built")
@pytest.mark.parametrize(("side", "most"), [(16, 15), (224, 60)])
def test_merging_from_the_pixels_takes_at_most_60_launches(side, most):
    """Launches follow from the shape, so pixels without a mask cost no time; a GPU takes fewer (merge_wide.cuh)."""
    count = ctypes.CDLL(str(backends.LIBRARY)).emulated_launches
    image, mask = torch.rand(1, 1, side, side), torch.zeros(1, side, side, dtype=torch.bool)
    with backends.use("cuda-emulated"):
        before = count()
        dk.merge_pixels(image, mask=mask)
        assert 8 <= count() - before <= most
