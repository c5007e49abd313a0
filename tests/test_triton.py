"""What is of the Triton kernels and not of the operators: where they can be imported, run and compiled."""

import os
import subprocess
import sys
from pathlib import Path

import backends
import numpy as np
import pytest
import torch
from grid import assert_close
from samples import SAMPLES
from test_cuda import FAR
from test_operators import TRITON, call, flat

TESTS = Path(__file__).parent
NO_TRITON = """
import sys
if {module!r} is None:
    sys.modules["triton"] = None
else:
    import types
    sys.modules["triton"] = types.ModuleType("triton"); sys.modules["triton"].__version__ = {module!r}
    sys.modules["triton.language"] = sys.modules["triton"].language = types.ModuleType("triton.language")
import pkgutil, importlib
import dhvt_kernels as dk
import dhvt_kernels.triton
for module in pkgutil.iter_modules(dhvt_kernels.triton.__path__, "dhvt_kernels.triton."):
    importlib.import_module(module.name)
print(dk.supports("relabel", backend="triton", device="cpu"))
print(dk.supports("relabel", backend="triton", device="cuda"))
import torch
dhvt_kernels.triton.srgb_to_lab(torch.rand(1, 3, 4, 4))
"""


def python(*arguments):
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "DHVT_KERNELS_BACKEND")}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("module", "reason"), [(None, "Triton is not installed"), ("3.3.1", "Triton 3.3.1 is older than 3.4")]
)
def test_everything_imports_without_triton_and_says_why_it_does_not_run(module, reason):
    process = python("-c", NO_TRITON.format(module=module))
    assert [line.partition(" (")[0] for line in process.stdout.splitlines()] == [reason] * 2
    assert process.stderr.splitlines()[-1].startswith(f"RuntimeError: dhvt_kernels.triton: {reason}")


@pytest.mark.parametrize(("kernels", "name"), TRITON)
def test_a_second_run_has_the_same_bits(kernels, name):
    arguments = SAMPLES[name](torch.float32)[0]
    with backends.use(kernels):
        first, second = (call(name, arguments) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.view(torch.uint8) if a.dim() else a, b.view(torch.uint8) if b.dim() else b)


@pytest.mark.parametrize("kernels", backends.TRITON_OPERATORS)
@pytest.mark.parametrize("name", FAR)
def test_pixels_that_lie_more_than_2_to_the_31_elements_apart(kernels, name):
    """As of the CUDA kernels; memory that is never touched is never there."""
    image = torch.rand(1, 3, 2, 2, dtype=torch.float16)
    far = torch.from_numpy(np.zeros(2**31 + 16, np.float16)).as_strided(image.shape, (0, 1, 3, 2**31))
    far.copy_(image)
    with backends.use(kernels):
        for found, expected in zip(flat(FAR[name](far)), flat(FAR[name](image)), strict=True):
            assert_close(found, expected, torch.float16)


def compiled(dtypes):
    """Compiles what the samples of every operator launch; the operators that launched something."""
    names = [name for _, name in TRITON]
    process = python(str(TESTS / "compiled_triton.py"), ",".join(names), dtypes)
    assert process.returncode == 0, process.stderr[-2000:]
    return names, {line.split()[0] for line in process.stdout.splitlines()}


@pytest.mark.skipif(not backends.TRITON_OPERATORS, reason="needs Triton")
def test_every_kernel_compiles_for_a_gpu():
    names, found = compiled("float32")
    assert found == set(names)


@pytest.mark.slow
@pytest.mark.skipif(not backends.TRITON_OPERATORS, reason="needs Triton")
def test_every_kernel_compiles_for_a_gpu_in_every_dtype():
    names, found = compiled("float16,bfloat16,float64")
    assert found == set(names)
