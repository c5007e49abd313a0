"""The CUDA kernels, run on the CPU (docs/emulation.md); the operators' own tests run on them, too."""

import backends
import pytest
import torch
from grid import DTYPES, assert_close
from samples import SAMPLES
from test_operators import call

pytestmark = pytest.mark.skipif(not backends.CUDA_OPERATORS, reason="the emulation was not built: make test builds it")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", backends.CUDA_OPERATORS)
def test_equals_the_reference(name, dtype):
    for arguments in SAMPLES[name](dtype):
        with backends.use("cuda-emulated"):
            emulated = call(name, arguments)
        with backends.use("reference"):
            reference = call(name, arguments)
        for index, (a, b) in enumerate(zip(emulated, reference, strict=True)):
            assert (a.shape, a.dtype) == (b.shape, b.dtype), f"output {index}"
            if a.is_floating_point():
                assert_close(a, b, dtype, scale=10)
            else:
                torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("name", backends.CUDA_OPERATORS)
def test_the_order_of_threads_and_blocks_changes_no_bit(name):
    """Each launch takes another order, so a barrier that is missing, or a race, shows."""
    arguments = SAMPLES[name](torch.float32)[0]
    with backends.use("cuda-emulated"):
        first, *others = (call(name, arguments) for _ in range(7))
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert torch.equal(a.view(torch.uint8) if a.dim() else a, b.view(torch.uint8) if b.dim() else b)
