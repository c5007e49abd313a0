"""Triton's interpreter without what costs most of its time in small kernels."""

from dataclasses import replace


def speed_up() -> None:
    """Leaves out that Triton's language is patched anew for a function in a kernel, and checks of sums for overflow.

    The former takes a millisecond per call, the latter five operations per sum.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    interpreter._patch_lang(tl.max.fn)  # `tl.core`, which functions of Triton's own see, for good
    interpreter.InterpretedFunction.__call__ = lambda self, *args, **kwargs: self.rewrite()(*args, **kwargs)
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=False)
