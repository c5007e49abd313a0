"""Every way of running the operators that this machine has, by name: see `BACKENDS`."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

import dhvt_kernels
from dhvt_kernels import _backends, _native, triton
from dhvt_kernels._schema import HOST_OPERATORS, NAMESPACE, SCHEMAS, ops

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


def _has_kernel(namespace: str, operator: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{namespace}::{operator}", key)


_emulated = _load_emulated()
_has_gpu = torch.cuda.is_available() and _native.cuda_architectures() is not None

#: The operators with a CUDA kernel, of each way of running one: "cuda-emulated" (compiled for the CPU) and "cuda".
CUDA_OPERATORS = {
    name: [operator for operator in sorted(SCHEMAS) if _has_kernel(namespace, operator, key)]
    for name, namespace, key, here in (
        ("cuda-emulated", EMULATED, "CPU", _emulated is not None),
        ("cuda", NAMESPACE, "CUDA", _has_gpu),
    )
    if here
}
#: The operators with a Triton kernel, of the one way of running them: in Triton's interpreter, or on a GPU.
TRITON_OPERATORS = (
    {"triton-interpreted" if triton.interpreted else "triton": sorted(set(SCHEMAS) - set(HOST_OPERATORS))}
    if triton.interpreted or triton.missing_on("cuda") is None
    else {}
)
#: Both: the backends whose kernels are slow to run here, and their operators.
KERNELS = {**CUDA_OPERATORS, **TRITON_OPERATORS}
NATIVE = [f"native-{level}" for level in _native.cpu_levels()]


def stem(operator: str) -> str:
    """The file stem of an operator."""
    return _backends._reference(operator).__module__.rpartition(".")[2]


def moved(tensor: torch.Tensor, device: str) -> torch.Tensor:
    """The same view of a copy of everything that the tensor is a view of: strides, offset and gaps stay."""
    whole = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())
    return whole.to(device).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _kernel(backend: str, operator: str) -> Callable[..., Any]:
    """What takes tensors of the CPU and runs the operator on a backend."""
    if backend == "cuda-emulated":
        return getattr(getattr(torch.ops, EMULATED), operator).default
    kernel = getattr(ops if backend == "cuda" else triton, operator)

    def on_gpu(*arguments: Any) -> Any:
        there = tree_map_only(torch.Tensor, lambda tensor: moved(tensor, "cuda"), arguments)
        return tree_map_only(torch.Tensor, torch.Tensor.cpu, kernel(*there))

    return kernel if backend == "triton-interpreted" else on_gpu


@contextlib.contextmanager
def use(name: str) -> Iterator[None]:
    """Run the operators on a backend inside a `with` block; tensors stay on the CPU."""
    if name in KERNELS:
        override = torch.library.Library(NAMESPACE, "IMPL")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*other operators may also be overridden", category=UserWarning)
            for operator in KERNELS[name]:
                override.impl(operator, _kernel(name, operator), "CPU", allow_override=True)
        try:
            yield
        finally:
            override._destroy()
        return
    backend, _, level = name.partition("-")
    with dhvt_kernels.backend(backend):
        best = _native.cpu_level()
        if level:
            _native.use_cpu_level(level)
        try:
            yield
        finally:
            if level:
                _native.use_cpu_level(best)
