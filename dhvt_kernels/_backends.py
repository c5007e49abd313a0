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


def _triton_error() -> str | None:
    """Why there are no Triton kernels; None when there are. Whatever an unusual Triton raises is a reason only."""
    try:
        return _triton().missing
    except Exception as error:
        return f"the Triton kernels cannot be loaded ({type(error).__name__}: {error})"


def _missing(backend: str, device: str) -> str | None:
    """Why a backend runs nothing on a device; None when it runs something."""
    if backend == "reference":
        return _native.gpu_missing() if device == "cuda" else None
    if backend == "native":
        return _native.native_error if device == "cpu" else _native.cuda_missing()
    return _triton_error() or _triton().missing_on(device)


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
    if operator in HOST_OPERATORS and (backend == "triton" or device == "cuda"):
        return f"{operator} runs on the CPU only, on the compiled library or the reference"
    return _missing(backend, device)


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
            the forced backend cannot run raises it, too, and only that where the environment forces the backend.

    Note:
        The choice is a registration with the dispatcher, for the whole process: it is not thread-safe, and a function
        compiled by `torch.compile` obeys it too, while a captured CUDA graph keeps the kernels that it was captured
        with. Inside a function that is compiled with `fullgraph=True` there cannot be such a block. Where blocks
        overlap, the one that was entered last and has not ended is in force. The environment variable
        `DHVT_KERNELS_BACKEND` forces a backend from the start; processes that are forked or spawned inside the block,
        such as workers of a DataLoader, inherit the choice. Those of a fork server take the environment in which the
        server was started: there, choose in a `worker_init_fn`. Operators that run on the CPU only (`trace` and what
        follows it) have no Triton kernels and stay as they are.

    Example:
        >>> import dhvt_kernels
        >>> with dhvt_kernels.backend("reference"):
        ...     pass
    """
    check_choice("backend", name, BACKENDS)
    reason = _impossible(name)
    if reason is not None:
        raise RuntimeError(f"backend {name!r} cannot run: {reason}")
    block = _choice.enter(name)
    try:
        yield
    finally:
        _choice.leave(block)


def _impossible(name: str) -> str | None:
    """Why a backend can run nothing here, as far as that is known before CUDA has started."""
    if name == "triton" and _native.gpu_missing() is None:
        return _triton_error()
    return None if name == "auto" else _missing(name, "cpu")


def in_force(device: str) -> str:
    """What runs the operators on a device and why, in one line. For "cuda" this starts CUDA."""
    if device == "cuda" and (reason := _native.gpu_missing()) is not None:
        return f"nothing: {reason}"
    name, reason = _choice.resolve(device)
    if _choice.name == "auto":
        return f"{name} (the best that runs here)" + (f": {reason}" if reason else "")
    return f"{name} ({_choice.chosen_by()})" + (f", which cannot run: {reason}" if reason else "")


def _refuse(operator: str, name: str, reason: str) -> Callable[..., Any]:
    """In place of an operator that a forced backend cannot run."""

    def refuse(*arguments: Any) -> Any:
        raise RuntimeError(f"{operator}: backend {name!r} cannot run: {reason}")

    return refuse


class _Choice:
    """The backend in force, and the registrations that hide the compiled kernels, by device."""

    def __init__(self) -> None:
        self.name = "auto"
        self._blocks: dict[object, str] = {}  # those of `backend`, in the order in which they were entered
        self._outside: tuple[str, str | None] = ("auto", None)  # the choice and the variable where no block is
        self._hiding: dict[str, torch.library.Library] = {}
        self._said: set[str] = set()

    def enter(self, name: str) -> object:
        """A block begins; what it is called by when it ends."""
        if not self._blocks:
            self._outside = self.name, os.environ.get(VARIABLE)
        block = object()
        self._blocks[block] = name
        self._obey()
        return block

    def leave(self, block: object) -> None:
        del self._blocks[block]
        self._obey()

    def _obey(self) -> None:
        """The last block, or what was chosen outside all of them; processes that are started now inherit it."""
        name, variable = self._outside
        if self._blocks:
            name = variable = next(reversed(self._blocks.values()))
        if variable is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = variable
        self.switch(name)

    def chosen_by(self) -> str:
        return "forced by backend(...)" if self._blocks else f"forced by {VARIABLE}"

    def switch(self, name: str) -> None:
        self.name = name
        self._register("cpu")
        if torch.cuda.is_initialized():
            self._register("cuda")

    def cuda_starts(self) -> None:
        """Registers for GPUs when torch starts CUDA: only then may one ask what they are."""
        self._register("cuda")

    def resolve(self, device: str) -> tuple[str, str | None]:
        """The backend for a device; why it is not a better one, or, where it is forced, why it cannot run."""
        if self.name != "auto":
            return self.name, _missing(self.name, device)
        reasons = []
        for name in ("native", "triton") if device == "cuda" else ("native",):
            reason = _missing(name, device)
            if reason is None:
                break
            reasons.append(reason)
        else:
            name = "reference"
        return name, "; ".join(reasons) or None

    def _say(self, device: str, name: str, reason: str) -> None:
        """Once per device: what runs is not the library."""
        if device not in self._said:
            self._said.add(device)
            instead = "Triton kernels" if name == "triton" else "the plain PyTorch reference, which is slow"
            logger.warning("%s tensors run on %s: %s", device.upper(), instead, reason)

    def _register(self, device: str) -> None:
        hidden = self._hiding.pop(device, None)
        if hidden is not None:
            hidden._destroy()
        name, reason = self.resolve(device)
        if self.name == "auto":
            if reason is not None:
                self._say(device, name, reason)
            if device == "cpu" or name == "native":
                return  # what the library has is registered, and the reference below it
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
    name = os.environ.get(VARIABLE) or "auto"
    check_choice(VARIABLE, name, BACKENDS)  # before anything is registered: after an error one may import again
    for operator in SCHEMAS:
        library.impl(operator, _reference(operator), "CompositeExplicitAutograd")
    _choice.switch(name)
    torch.cuda._lazy_call(_choice.cuda_starts)  # at once, if CUDA has started
    if "DHVT_KERNELS_CPU" in os.environ and _native.native_error is None:
        _native.use_cpu_level(os.environ["DHVT_KERNELS_CPU"])
