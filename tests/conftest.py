"""Every test runs with uninitialised memory filled with NaN, so that an element which no kernel wrote shows."""

import pytest
import torch

import dhvt_kernels


@pytest.fixture(autouse=True)
def _poisoned_outputs():
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=["native", "reference"])
def backend(request):
    """Runs the test once per backend."""
    with dhvt_kernels.backend(request.param):
        yield request.param
