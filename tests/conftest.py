"""Every test runs with uninitialised memory filled with NaN, so that an element which no kernel wrote shows."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton's kernels are defined
# Two lines apart from the other imports: they define them.
import backends
import interpreter
import pytest

from dhvt_kernels.triton import _language

if _language.interpreted:
    interpreter.speed_up()

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic products ask for on a GPU


@pytest.fixture(autouse=True)
def _poisoned_outputs():
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)


def pytest_generate_tests(metafunc):
    """Runs a test that takes `backend` once per backend; what is slow without a GPU in operators' tests only."""
    if "backend" in metafunc.fixturenames:
        stem = metafunc.module.__name__.removeprefix("test_")
        kernels = [
            name
            for name, operators in backends.KERNELS.items()
            if name in ("cuda", "triton") or stem in {*operators, *map(backends.stem, operators)}
        ]
        metafunc.parametrize("backend", [*backends.NATIVE, "reference", *kernels], indirect=True)


@pytest.fixture
def backend(request):
    """The backend that runs the operators during the test."""
    with backends.use(request.param):
        yield request.param
