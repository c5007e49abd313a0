"""Validation shared by the public functions: every message states what was expected and what was found."""

import math
from numbers import Real

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LABELS = (torch.int32,)
INT32_MAX = 2**31 - 1


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _show(tensor: Tensor) -> str:
    return f"[{','.join(str(size) for size in tensor.shape)}] of {str(tensor.dtype).removeprefix('torch.')}"


def check_tensors(**arguments: tuple[Tensor | None, str, tuple[torch.dtype, ...] | torch.dtype]) -> dict[str, int]:
    """Check tensors against shapes in the notation of the docs, e.g. `features=(features, "B C H W", FLOATING)`.

    Letters bind in the order of the arguments and must agree afterwards; digits are literal sizes. A shape that ends in
    "?" belongs to an optional argument, which may be None. All tensors must be on the device of the first. Returns the
    sizes by letter.

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: another number of dimensions, other sizes, or another device.
    """
    sizes: dict[str, int] = {}
    device = None
    for name, (tensor, shape, dtypes) in arguments.items():
        letters = shape.split()
        if shape[-1] == "?":
            if tensor is None:
                continue
            letters = shape[:-1].split()
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor [{','.join(letters)}]; found {type(tensor).__name__}")
        dtype, found = tensor.dtype, tensor.shape
        if dtype is not dtypes and (not isinstance(dtypes, tuple) or dtype not in dtypes):
            allowed = dtypes if isinstance(dtypes, tuple) else (dtypes,)
            wanted = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
            raise TypeError(f"{name}: expected [{','.join(letters)}] of {wanted}; found {_show(tensor)}")
        if len(found) != len(letters):
            raise ValueError(f"{name}: expected [{','.join(letters)}]; found {_show(tensor)}")
        for letter, size in zip(letters, found, strict=True):
            expected = int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
            if size != expected:
                known = ",".join(str(sizes.get(other, other)) for other in letters)
                raise ValueError(f"{name}: expected [{','.join(letters)}] = [{known}]; found {_show(tensor)}")
        if device is None:
            device = tensor.device
        elif tensor.device != device:
            raise ValueError(f"{name}: expected device {device}; found {tensor.device}")
    return sizes


def check_int(name: str, value: int, minimum: int) -> int:
    """An integer of at least `minimum`, and within int32: so are the ids and offsets that it sizes."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name}: expected an integer; found {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"{name}: expected an integer >= {minimum}; found {value}")
    if value > INT32_MAX:
        raise ValueError(f"{name}: expected an integer <= {INT32_MAX}; found {value}")
    return value


def check_float(name: str, value: float, *, above: float | None = None, minimum: float | None = None) -> float:
    """A finite number, greater than `above` or at least `minimum`."""
    # The first test is for speed: that of an abstract class is slow.
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"{name}: expected a number; found {type(value).__name__}")
    number = float(value)
    bound = f" > {above:g}" if above is not None else f" >= {minimum:g}" if minimum is not None else ""
    if (
        not -math.inf < number < math.inf  # torch.compile knows no isfinite of a number that it holds as a symbol
        or (above is not None and number <= above)
        or (minimum is not None and number < minimum)
    ):
        raise ValueError(f"{name}: expected a finite number{bound}; found {number}")
    return number


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    """One of a few strings."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}; found {value!r}")
    return value
