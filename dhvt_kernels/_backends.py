"""Which implementation of an operator runs: decided when it is registered, never per call."""

import contextlib
import importlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from . import _native
from ._checks import check_choice
from ._schema import HOST_OPERATORS, NAMESPACE, SCHEMAS, library

logger = logging.getLogger("dhvt_kernels")

BACKENDS = ("auto", "reference", "native", "triton")
DEVICES = ("cpu", "cuda")
VARIABLE = "DHVT_KERNELS_BACKEND"


def _reference(operator: str) -> Callable[..., Any]:
    """The plain PyTorch implementation of an operator, found by name in `reference/`."""
    return getattr(importlib.import_module(".reference", __package__), operator)


def _triton() -> Any:
    """The package of Triton kernels; it imports Triton, which takes a second."""
    return importlib.import_module(".triton", __package__)


def supports(operator: str, *, backend: str, device: str = "cuda") -> str | None:
    """Why a backend cannot run an operator on a device; None when it can.

    Args:
        operator: its name in `torch.ops.dhvt_kernels`, such as `"segment_sum"`.
        backend: `"reference"` (plain PyTorch), `"native"` (the compiled library) or `"triton"`.
        device: `"cpu"` or `"cuda"`.

    Returns:
        The reason in one line, or None.

    Raises:
        ValueError: an unknown operator, backend or device.

    Note:
        For `device="cuda"` this starts CUDA, as every use of a GPU does. Operators that serve raster to vector only
        (`trace` and what follows it) run on the CPU only.

    Example:
        >>> import dhvt_kernels as dk
        >>> dk.supports("segment_sum", backend="reference", device="cpu") is None
        True
    """
    check_choice("operator", operator, tuple(SCHEMAS))
    check_choice("backend", backend, BACKENDS[1:])
    check_choice("device", device, DEVICES)
    if backend == "reference":
        return _native.gpu_missing() if device == "cuda" else None
    if operator in HOST_OPERATORS and (backend, device) != ("native", "cpu"):
        return f"{operator} runs on the CPU only, on the compiled library or the reference"
    if backend == "native":
        return _native.native_error if device == "cpu" else _native.cuda_missing()
    return _triton().missing_on(device)


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Force a backend inside a `with` block, for tests and benchmarks.

    Args:
        name: `"reference"` (plain PyTorch), `"native"` (the compiled library), `"triton"` (Triton kernels; on CPU
            tensors only under `TRITON_INTERPRET=1`) or `"auto"` (the best there is: the library where it has code for
            the device, else, on a GPU, Triton, else the reference).

    Raises:
        ValueError: the name is unknown.
        RuntimeError: the backend cannot run here; the message holds the reason. An operator called on a device on which
            the forced backend cannot run raises it, too.

    Note:
        The choice is a registration with the dispatcher, for the whole process: it is not thread-safe, and a function
        compiled by `torch.compile` obeys it too, while a captured CUDA graph keeps the kernels that it was captured
        with. The environment variable `DHVT_KERNELS_BACKEND` forces one from the start; processes that are started
        inside the block, such as workers of a DataLoader, inherit the choice. Operators that run on the CPU only
        (`trace` and what follows it) have no Triton kernels and stay as they are.

    Example:
        >>> import dhvt_kernels
        >>> with dhvt_kernels.backend("reference"):
        ...     pass
    """
    before, variable = _choice.name, os.environ.get(VARIABLE)
    _choice.switch(name)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        if variable is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = variable
        _choice.switch(before)


def _refuse(operator: str, name: str, reason: str) -> Callable[..., Any]:
    """In place of an operator that a forced backend cannot run."""

    def refuse(*arguments: Any) -> Any:
        raise RuntimeError(f"{operator}: backend {name!r} cannot run: {reason}")

    return refuse


class _Choice:
    """The backend in force, and the registrations that hide the compiled kernels, by device."""

    def __init__(self) -> None:
        self.name = "auto"
        self._hiding: dict[str, torch.library.Library] = {}
        self._said = False

    def switch(self, name: str) -> None:
        check_choice("backend", name, BACKENDS)
        reason = self._impossible(name)
        if reason is not None:
            raise RuntimeError(f"backend {name!r} cannot run: {reason}")
        self.name = name
        self._register("cpu")
        if torch.cuda.is_initialized():
            self._register("cuda")

    def _impossible(self, name: str) -> str | None:
        """Why a backend can run nothing here."""
        if name == "native":
            return _native.native_error
        if name == "triton":
            return _triton().missing_on("cpu") if _native.gpu_missing() else _triton().missing
        return None

    def cuda_starts(self) -> None:
        """Registers for GPUs when torch starts CUDA: only then may one ask what they are."""
        self._register("cuda")
        if self.name == "auto" and not self._said:
            self._said = True
            missing = _native.cuda_missing()
            if missing is not None:
                slow = _triton().missing_on("cuda")
                instead = "the plain PyTorch reference, which is slow" if slow else "Triton kernels"
                logger.warning("CUDA tensors run on %s: %s", instead, "; ".join(filter(None, (missing, slow))))

    def _register(self, device: str) -> None:
        hidden = self._hiding.pop(device, None)
        if hidden is not None:
            hidden._destroy()
        name = self.name
        if name == "auto":
            if device == "cpu" or _native.cuda_missing() is None:
                return  # what the library has is registered, and the reference below it
            name = "triton" if _triton().missing_on("cuda") is None else "reference"
        self._hiding[device] = hiding = torch.library.Library(NAMESPACE, "IMPL")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*other operators may also be overridden", category=UserWarning)
            for operator in SCHEMAS:
                if name == "triton" and operator in HOST_OPERATORS:
                    continue
                reason = supports(operator, backend=name, device=device)
                if reason is None and name == "native":
                    continue
                kernel = (
                    _refuse(operator, name, reason)
                    if reason is not None
                    else _reference(operator)
                    if name == "reference"
                    else getattr(_triton(), operator)
                )
                hiding.impl(operator, kernel, device.upper(), allow_override=True)


_choice = _Choice()


def register_backends() -> None:
    """Put the reference below every backend, so that it runs wherever no kernel is; then obey the environment."""
    for operator in SCHEMAS:
        library.impl(operator, _reference(operator), "CompositeExplicitAutograd")
    _choice.switch(os.environ.get(VARIABLE, "auto"))
    torch.cuda._lazy_call(_choice.cuda_starts)  # at once, if CUDA has started
    if "DHVT_KERNELS_CPU" in os.environ and _native.native_error is None:
        _native.use_cpu_level(os.environ["DHVT_KERNELS_CPU"])
    if _native.native_error is not None and _choice.name == "auto":
        logger.warning("CPU tensors run on the plain PyTorch reference, which is slow: %s", _native.native_error)
