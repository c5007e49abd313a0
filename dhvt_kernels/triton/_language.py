"""Triton, or what stands for it where it is not installed: modules of kernels can always be imported."""

import functools
import os
import re
import shutil
from collections.abc import Callable
from typing import Any

import torch

OLDEST = (3, 4)

#: Why there is no Triton to run kernels with; None when there is.
missing: str | None = None

try:
    import triton
    import triton.language as tl

    if tuple(int(part) for part in re.findall(r"\d+", triton.__version__)[:2]) < OLDEST:
        missing = f"Triton {triton.__version__} is older than {OLDEST[0]}.{OLDEST[1]}"
except ImportError as error:
    missing = f"Triton is not installed ({error})"
except Exception as error:
    missing = f"Triton cannot be imported ({type(error).__name__}: {error})"

#: Sizes that change from image to image. Triton compiles a kernel anew for a size of 1 and for multiples of 16, in all
#: combinations; of these it does not. Only `width` and what counts pixels stay: they say whether loads may be wide.
VARYING = (
    "height",
    "num_segments",
    "segments",
    "strips",
    "strip_rows",
    "cells",
    "patches",
    "rows",
    "row",
    "tasks",
    "capacity",
    "length",
    "leaves",
    "nodes",
)

if missing is None:

    def jit(function: Callable[..., Any]) -> Any:
        constants = function.__annotations__  # may have such a name, too
        return triton.jit(function, do_not_specialize=[name for name in VARYING if name not in constants])

    cdiv, next_power_of_2 = triton.cdiv, triton.next_power_of_2
else:

    class _Absent:
        """Stands for `triton.language` where kernels are defined, and for a kernel, which says why when launched."""

        def __getattr__(self, name: str) -> Any:
            return self

        def __call__(self, *arguments: Any) -> Any:
            return self

        def __getitem__(self, grid: Any) -> Any:
            raise RuntimeError(f"dhvt_kernels.triton: {missing}")

    tl = _Absent()

    def jit(function: Callable[..., Any]) -> Any:
        return _Absent()

    def cdiv(x: int, y: int) -> int:
        return -(-x // y)

    def next_power_of_2(n: int) -> int:
        return 1 << max(n - 1, 0).bit_length()


def triton_dtype(dtype: torch.dtype) -> Any:
    """torch.float32 as tl.float32, and so on: how a kernel is told what it accumulates in."""
    return getattr(tl, str(dtype).removeprefix("torch."))


#: Whether kernels run in Triton's interpreter, on tensors of any device: decided when they are defined, that is, now.
interpreted = missing is None and triton.knobs.runtime.interpret


@functools.cache
def driver_missing() -> str | None:
    """Why Triton cannot launch kernels: it compiles what launches them, with a C compiler, when they first run."""
    try:
        compilers = os.environ.get("CC"), shutil.which("gcc"), shutil.which("clang"), triton.knobs.build.impl
        if not any(compilers):
            return "Triton needs a C compiler: there is no gcc or clang, and CC names none"
        triton.runtime.driver.active.utils  # noqa: B018
    except Exception as error:
        needs = "for which it needs a C compiler, Python's headers and libcuda.so"
        return f"Triton cannot build its driver, {needs} ({' '.join(str(error).split())})"
    return None
