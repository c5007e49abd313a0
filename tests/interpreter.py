"""Triton's interpreter without what costs most of its time in small kernels."""

from dataclasses import replace


def speed_up() -> None:
    """Patches Triton's language for good, and leaves out checks of sums for overflow.

    The interpreter patches it for every launch, and again for every call of a function in a kernel, which takes a
    millisecond; the checks make six operations of one.
    """
    from triton import language
    from triton.runtime import interpreter

    from dhvt_kernels.triton._math import wide

    for function in (wide.fn, language.max.fn):  # `triton.language`, and `triton.language.core`, which Triton's own see
        scope = interpreter._patch_lang(function)
        if scope is not None:
            scope._changes.clear()  # so that there is nothing to restore
    interpreter._patch_lang = lambda function: scope
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=False)
