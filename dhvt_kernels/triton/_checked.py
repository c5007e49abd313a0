"""What operators ask of their arguments: a direct call must not read out of bounds, and errors come before kernels."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

from .._checks import FLOATING, INT32_MAX, accumulation_dtype, check_choice, check_int, check_tensors

P = ParamSpec("P")
R = TypeVar("R")

#: Dtypes of an argument that "same" and "sum" refer to, by their words.
_LEADING = {
    "floating": FLOATING,
    "pixels": (*FLOATING, torch.uint8),
    "accumulated": (torch.float32, torch.float64),
}
#: Sizes of what is numbered in int32: nodes and edges.
_NUMBERED = ("V", "E")


def checked(**expected: str | int | tuple[str, ...]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declares arguments as csrc/*_host.h checks them, in the order in which they are checked; others are free.

    A tensor is declared by its dtype and shape, such as "int32 B H W", or "bool B H W?" where it may be None; a whole
    number by the least it may be; a string by its choices. "same" is the dtype of the argument that is declared as
    floating (or as what a word of `_LEADING` says), "sum" the one in which sums of it are taken, "any" is free. What
    does not fit is a RuntimeError, as in every backend.
    """
    words = {name: what.split(maxsplit=1) for name, what in expected.items() if isinstance(what, str)}
    leading = next((name for name, (dtype, _) in words.items() if dtype in _LEADING), None)

    def dtypes(word: str, tensor: Any, given: dict[str, Any]) -> tuple[torch.dtype, ...] | torch.dtype:
        if word in _LEADING:
            return _LEADING[word]
        if word == "any":
            return getattr(tensor, "dtype", torch.float32)
        if leading is not None and word in ("same", "sum"):
            found = given[leading].dtype
            return found if word == "same" else accumulation_dtype(found)
        return getattr(torch, word)

    def check(given: dict[str, Any]) -> None:
        sizes = check_tensors(
            **{name: (given[name], shape, dtypes(word, given[name], given)) for name, (word, shape) in words.items()}
        )
        for letter in _NUMBERED:
            require(sizes.get(letter, 0) <= INT32_MAX, f"expected numbers within int32; {letter} = {sizes.get(letter)}")
        for name, what in expected.items():
            if isinstance(what, int):
                check_int(name, given[name], what)
            elif isinstance(what, tuple):
                check_choice(name, given[name], what)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        names = tuple(inspect.signature(function).parameters)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                check({**dict(zip(names, args, strict=False)), **kwargs})
            except (TypeError, ValueError) as error:
                raise RuntimeError(f"{function.__name__}: {error}") from error
            return function(*args, **kwargs)

        return call

    return decorate


def require(condition: bool, message: str) -> None:
    """What relates arguments to each other, or bounds one."""
    if not condition:
        raise RuntimeError(message)
