"""Triton's interpreter without what costs most of its time in small kernels."""

from dataclasses import replace


def speed_up() -> None:
    """Functions that a kernel calls find Triton's language as the kernel left it; small sums are not checked for overflow.

    The interpreter patches `triton.language` anew for every call of a function inside a kernel, a millisecond each.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    interpreter._patch_lang(tl.max.fn)  # `tl.core`, which functions of Triton's own see, for good
    interpreter.InterpretedFunction.__call__ = lambda self, *args, **kwargs: self.rewrite()(*args, **kwargs)
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=False)
