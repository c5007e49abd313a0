"""What `dhvt info` prints: versions, backends and why one is missing, CPU, build settings."""

import importlib.metadata
import os
import platform
import re
from typing import Any

import torch

from . import _native
from ._backends import BACKENDS, DEVICES, in_force, supports
from ._schema import HOST_OPERATORS

STABLE_ABI = "2.10"


def collect() -> dict[str, Any]:
    """Everything as a dictionary fit for JSON. A backend's value is None when it can run, else the reason."""
    from . import __version__

    library = _native.LIBRARY_PATH
    return {
        "versions": {
            "dhvt_kernels": __version__,
            "torch": torch.__version__,
            "triton": _version("triton"),
            "python": platform.python_version(),
            "platform": platform.platform(),
        },
        "backends": {
            f"{backend} on {device}": supports("segment_sum", backend=backend, device=device)
            for device in DEVICES
            for backend in BACKENDS[1:]
        },
        "in force": {
            **{device: in_force(device) for device in DEVICES},
            "on the CPU only": ", ".join(HOST_OPERATORS),
        },
        "cpu": {
            "name": _cpu_name(),
            "level": _native.cpu_level(),
            "levels": ", ".join(_native.cpu_levels()) or None,
            "torch capability": torch.backends.cpu.get_cpu_capability(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "build": {
            "library": str(library) if library.exists() else None,
            "compiler": _compiler(),
            "stable ABI": f"torch {STABLE_ABI}",
            "CUDA architectures": _native.cuda_architectures(),
        },
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _compiler() -> str | None:
    """What the compiler wrote about itself into the library."""
    if not _native.LIBRARY_PATH.exists():
        return None
    found = re.search(rb"GCC: \([^\0]*|[^\0]*clang version [^\0]*", _native.LIBRARY_PATH.read_bytes())
    return found.group().decode(errors="replace").strip() if found else None
