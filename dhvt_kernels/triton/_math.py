"""Arithmetic that kernels share."""

from ._language import jit, tl


@jit
def wide(x):
    """A size or an index in 64 bits; a kernel sees a size of 1 as a constant, which has no `.to`."""
    return tl.cast(x, tl.int64)


@jit
def divide(x, y):
    """x / y rounded once, as every other backend does: Triton's own division of float32 is off by up to 2 ulp."""
    if x.dtype == tl.float64:
        return x / y
    else:
        return tl.div_rn(x, y)


@jit
def square_root(x):
    """Rounded once, as every other backend does."""
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)
