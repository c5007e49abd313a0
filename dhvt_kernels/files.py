"""Writing files whole or not at all."""

import os
import shutil
import threading
from contextlib import suppress
from os import PathLike
from pathlib import Path


def write_text(path: str | PathLike[str], text: str) -> None:
    """Write a text file in UTF-8; where that fails, a file that was there before stays as it was.

    Raises:
        OSError: the file cannot be written; it names `path`.
    """
    target = Path(path)
    if target.exists() and not target.is_file():  # a folder, which fails, or a device or a pipe, which stays one
        target.write_text(text, "utf-8")
        return
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{os.getpid()}-{threading.get_ident()}.part")
    try:
        part.write_text(text, "utf-8")
        if target.exists():
            shutil.copymode(target, part)
        os.replace(part, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        with suppress(OSError):
            part.unlink()
