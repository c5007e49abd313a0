"""Finds and loads the compiled library; keeps the reason when it cannot; registers the reference below it."""

import contextlib
import ctypes
import importlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ._schema import NAMESPACE, SCHEMAS, library

logger = logging.getLogger("dhvt_kernels")

LIBRARY_PATH = Path(__file__).with_name("_C.so")
BACKENDS = ("auto", "reference", "native")


def _load() -> str | None:
    """Load _C.so; the reason when that fails, else None."""
    if not LIBRARY_PATH.exists():
        return f"{LIBRARY_PATH.name} was not built (no C++ compiler at installation time?)"
    try:
        torch.ops.load_library(str(LIBRARY_PATH))
    except OSError as error:
        return f"{LIBRARY_PATH.name} does not load with torch {torch.__version__}: {error}"
    return None


#: Why the compiled library is not in use; None when it is.
native_error: str | None = _load()


def cpu_levels() -> tuple[str, ...]:
    """The instruction-set levels that the library has code for and this machine can run, the best one last."""
    if native_error is not None:
        return ()
    name = ctypes.CDLL(str(LIBRARY_PATH)).dhvt_level_name
    name.restype = ctypes.c_char_p
    levels: list[str] = []
    while (level := name(len(levels))) is not None:
        levels.append(level.decode())
    return tuple(levels)


def cpu_level() -> str | None:
    """The level in force: the best one, unless `DHVT_KERNELS_CPU` or `use_cpu_level` chose another."""
    return None if native_error is not None else cpu_levels()[ctypes.CDLL(str(LIBRARY_PATH)).dhvt_level()]


def use_cpu_level(name: str) -> None:
    """Run the CPU kernels that were compiled for a level, for the whole process.

    Raises:
        RuntimeError: this machine cannot run it, or the library is not loaded.
    """
    levels = cpu_levels()
    if name not in levels:
        raise RuntimeError(
            f"CPU level {name!r} cannot run: "
            + (native_error or f"expected one of {', '.join(levels)} (what this machine has)")
        )
    ctypes.CDLL(str(LIBRARY_PATH)).dhvt_use_level(levels.index(name))


def cuda_architectures() -> str | None:
    """What the CUDA kernels were compiled for, such as "sm_80 sm_90 PTX_90"; None where there are none."""
    if native_error is not None:
        return None
    found = getattr(ctypes.CDLL(str(LIBRARY_PATH)), "dhvt_cuda_architectures", None)
    if found is None:
        return None
    found.restype = ctypes.c_char_p
    return found().decode()


def _reference(operator: str) -> Callable[..., Any]:
    """The plain PyTorch implementation of an operator, found by name in `reference/`."""
    return getattr(importlib.import_module(".reference", __package__), operator)


def supports(backend: str) -> str | None:
    """The reason why a backend cannot run here; None when it can."""
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}; found {backend!r}")
    return native_error if backend == "native" else None


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Force a backend inside a `with` block, for tests and benchmarks.

    Args:
        name: `"reference"` (plain PyTorch), `"native"` (the compiled library) or `"auto"` (the best there is).

    Raises:
        ValueError: the name is unknown.
        RuntimeError: the backend cannot run here; the message holds the reason.

    Note:
        The choice is a registration with the dispatcher, for the whole process: it is not thread-safe, and a function
        compiled by `torch.compile` obeys it too. The environment variable `DHVT_KERNELS_BACKEND` forces one from the
        start.

    Example:
        >>> import dhvt_kernels
        >>> with dhvt_kernels.backend("reference"):
        ...     pass
    """
    before = _forced.name
    _forced.switch(name)
    try:
        yield
    finally:
        _forced.switch(before)


class _Forced:
    """The backend in force, and the registration that hides the compiled kernels while it is the reference."""

    def __init__(self) -> None:
        self.name = "auto"
        self._override: torch.library.Library | None = None

    def switch(self, name: str) -> None:
        reason = supports(name)
        if reason is not None:
            raise RuntimeError(f"backend {name!r} cannot run: {reason}")
        if self._override is not None:
            self._override._destroy()
            self._override = None
        self.name = name
        if name != "reference" or native_error is not None:
            return
        self._override = torch.library.Library(NAMESPACE, "IMPL")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*other operators may also be overridden", category=UserWarning)
            for operator in SCHEMAS:
                for key in ("CPU", "CUDA"):
                    if torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{operator}", key):
                        self._override.impl(operator, _reference(operator), key, allow_override=True)


_forced = _Forced()


def register_backends() -> None:
    """Put the reference below every backend, so that it runs wherever no kernel is; then obey the environment."""
    for operator in SCHEMAS:
        library.impl(operator, _reference(operator), "CompositeExplicitAutograd")
    _forced.switch(os.environ.get("DHVT_KERNELS_BACKEND", "auto"))
    if "DHVT_KERNELS_CPU" in os.environ and native_error is None:
        use_cpu_level(os.environ["DHVT_KERNELS_CPU"])
    if native_error is not None and _forced.name == "auto":
        logger.warning("running on the plain PyTorch reference, which is slow: %s", native_error)
