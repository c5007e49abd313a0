"""Finds and loads the compiled library; keeps the reason when it cannot."""

import ctypes
from pathlib import Path

import torch

from . import _schema as _schema  # the library's kernels need their schemas

LIBRARY_PATH = Path(__file__).with_name("_C.so")


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


def cuda_missing() -> str | None:
    """Why the library's CUDA kernels cannot run on the GPUs of this machine; None when they can. Starts CUDA."""
    if native_error is not None:
        return native_error
    built = cuda_architectures()
    if built is None:
        return "the library was built without CUDA kernels"
    reason = gpu_missing()
    if reason is not None:
        return reason
    for device in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_capability(device)
        if not _has_code(built, found):
            return (
                f"the library has no code for device {device} (sm_{found[0]}{found[1]}); it was built for {built} "
                "(CUDA_VISIBLE_DEVICES can leave the device out)"
            )
    return None


def gpu_missing() -> str | None:
    """Why torch has no GPU here; None when it has one. Does not start CUDA."""
    if torch.version.cuda is None:
        return "torch was built without CUDA"
    return None if torch.cuda.is_available() else "torch finds no GPU"


def _has_code(built: str, device: tuple[int, int]) -> bool:
    """Machine code runs on devices of its major version from its minor version on, PTX on all later ones."""
    for entry in built.split():
        kind, _, number = entry.partition("_")
        version = divmod(int(number.rstrip("af")), 10)
        if version <= device and (kind == "PTX" or version[0] == device[0]):
            return True
    return False
