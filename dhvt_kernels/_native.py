"""Finds and loads the compiled library; keeps the reason when it cannot; registers the reference below it."""

import contextlib
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
        compiled by `torch.compile` obeys it too.

    Example:
        >>> import dhvt_kernels
        >>> with dhvt_kernels.backend("reference"):
        ...     pass
    """
    reason = supports(name)
    if reason is not None:
        raise RuntimeError(f"backend {name!r} cannot run: {reason}")
    if name != "reference" or native_error is not None:
        yield
        return
    override = torch.library.Library(NAMESPACE, "IMPL")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*other operators may also be overridden", category=UserWarning)
            for operator in SCHEMAS:
                override.impl(operator, _reference(operator), "CPU", allow_override=True)
        yield
    finally:
        override._destroy()


def register_reference() -> None:
    """Put the reference below every backend: it runs wherever no kernel is registered for the device."""
    for operator in SCHEMAS:
        library.impl(operator, _reference(operator), "CompositeExplicitAutograd")


def warn_once() -> None:
    if native_error is not None and os.environ.get("DHVT_KERNELS_BACKEND") != "reference":
        logger.warning("running on the plain PyTorch reference, which is slow: %s", native_error)
