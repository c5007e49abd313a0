"""Every test runs with uninitialised memory filled with NaN, so that an element which no kernel wrote shows."""

import os

import backends
import pytest
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic products ask for on a GPU


@pytest.fixture(autouse=True)
def _poisoned_outputs():
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)


def pytest_generate_tests(metafunc):
    """Runs a test that takes `backend` once per backend; on the emulated GPU, which is slow, only operators' tests."""
    if "backend" in metafunc.fixturenames:
        stem = metafunc.module.__name__.removeprefix("test_")
        cuda = [
            name
            for name, operators in backends.CUDA_OPERATORS.items()
            if name == "cuda" or stem in {*operators, *map(backends.stem, operators)}
        ]
        metafunc.parametrize("backend", [*backends.NATIVE, "reference", *cuda], indirect=True)


@pytest.fixture
def backend(request):
    """The backend that runs the operators during the test."""
    with backends.use(request.param):
        yield request.param
