"""Writing files whole or not at all."""

import os
from contextlib import suppress
from os import PathLike
from pathlib import Path


def write_text(path: str | PathLike[str], text: str) -> None:
    """Write a text file in UTF-8; where that fails, a file that was there before stays as it was.

    Raises:
        OSError: the file cannot be written; it names `path`.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():  # a folder, which fails, or a device, which stays one
        target.write_text(text, "utf-8")
        return
    part = target.with_name(f".{os.getpid()}.part")
    try:
        part.write_text(text, "utf-8")
        os.replace(part, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        with suppress(OSError):
            part.unlink()
