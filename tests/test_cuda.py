"""The CUDA kernels, on a GPU or emulated (docs/emulation.md); the operators' own tests run on them, too."""

import backends
import pytest
import torch
from grid import DTYPES
from samples import SAMPLES
from test_operators import call, check_against_reference

KERNELS = [(backend, name) for backend, operators in backends.CUDA_OPERATORS.items() for name in operators]
pytestmark = pytest.mark.skipif(not KERNELS, reason="no GPU, and the emulation was not built: make test builds it")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name_of_backend", "name"), KERNELS)
def test_equals_the_reference(name_of_backend, name, dtype):
    check_against_reference(name_of_backend, name, dtype)


@pytest.mark.parametrize(("name_of_backend", "name"), KERNELS)
def test_the_order_of_threads_and_blocks_changes_no_bit(name_of_backend, name):
    """Each launch of the emulation takes another order, so a barrier that is missing, or a race, shows."""
    arguments = SAMPLES[name](torch.float32)[0]
    with backends.use(name_of_backend):
        first, *others = (call(name, arguments) for _ in range(7))
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert torch.equal(a.view(torch.uint8) if a.dim() else a, b.view(torch.uint8) if b.dim() else b)
