"""Every way of running the operators that this machine has, by name: "reference", "native-<level>", "cuda-emulated"."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

import dhvt_kernels
from dhvt_kernels import _native
from dhvt_kernels._schema import NAMESPACE, SCHEMAS

EMULATED = "dhvt_emulated"
#: What `make` builds of the CUDA sources for the CPU (docs/emulation.md).
LIBRARY = Path(os.environ.get("DHVT_EMULATED", Path(__file__).parent.parent / "build/emulation/libemulated.so"))


def _load_emulated() -> torch.library.Library | None:
    if not LIBRARY.exists():
        return None
    library = torch.library.Library(EMULATED, "DEF")
    for name, schema in SCHEMAS.items():
        library.define(name + schema)
    torch.ops.load_library(str(LIBRARY))
    return library


_emulated = _load_emulated()


def has_emulated(operator: str) -> bool:
    """Whether the operator has a CUDA kernel, compiled for the CPU."""
    return _emulated is not None and torch._C._dispatch_has_kernel_for_dispatch_key(f"{EMULATED}::{operator}", "CPU")


def stem(operator: str) -> str:
    """The file stem of an operator."""
    return _native._reference(operator).__module__.rpartition(".")[2]


#: The operators that have a CUDA kernel.
CUDA_OPERATORS = [operator for operator in sorted(SCHEMAS) if has_emulated(operator)]
NATIVE = [f"native-{level}" for level in _native.cpu_levels()]


@contextlib.contextmanager
def use(name: str) -> Iterator[None]:
    """Run the operators on a backend inside a `with` block."""
    backend, _, level = name.partition("-")
    if backend == "cuda":
        override = torch.library.Library(NAMESPACE, "IMPL")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*other operators may also be overridden", category=UserWarning)
            for operator in CUDA_OPERATORS:
                kernel = getattr(getattr(torch.ops, EMULATED), operator).default
                override.impl(operator, kernel, "CPU", allow_override=True)
        try:
            yield
        finally:
            override._destroy()
        return
    with dhvt_kernels.backend(backend):
        best = _native.cpu_level()
        if level:
            _native.use_cpu_level(level)
        try:
            yield
        finally:
            if level:
                _native.use_cpu_level(best)
