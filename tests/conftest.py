"""Every test runs with uninitialised memory filled with NaN, so that an element which no kernel wrote shows."""

import pytest
import torch

import dhvt_kernels
from dhvt_kernels import _native


@pytest.fixture(autouse=True)
def _poisoned_outputs():
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=[*(f"native-{level}" for level in _native.cpu_levels()), "reference"])
def backend(request):
    """Runs the test once per backend, and per instruction-set level of the compiled one."""
    name, _, level = request.param.partition("-")
    with dhvt_kernels.backend(name):
        best = _native.cpu_level()
        if level:
            _native.use_cpu_level(level)
        yield name
        if level:
            _native.use_cpu_level(best)
