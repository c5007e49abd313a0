"""Checkpoints: written beside the last one and renamed when they are whole, so that there is always a good one."""

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

STATE = "state.pt"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, or that is of another model."""


def save(folder: Path, step: int, state: dict[str, Any], keep: int, loaded: int | None = None) -> Path:
    """Writes `folder/step_N`, and removes all but the last `keep`; after a failure those of before are as they were.

    That of the step `loaded` is there. Another of the same step is a damaged one, whose place this one takes.
    """
    final, temporary = folder / f"step_{step:08d}", folder / f".saving_{step:08d}"
    if final.exists() and step == loaded:
        return final
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".saving_*"):  # of a run that was killed
            shutil.rmtree(leftover)
        temporary.mkdir()
        with open(temporary / STATE, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if final.exists():
            final.rename(folder / f".saving_{step:08d}_damaged")
        temporary.rename(final)
        _sync(folder)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter where the disk is full
        shutil.rmtree(temporary, ignore_errors=True)
        good = _good(folder)
        rest = f"the last good one is {good[-1]}" if good else "there is no other"
        raise CheckpointError(f"cannot save the checkpoint of step {step} in {folder}: {error}; {rest}") from error
    kept = _good(folder)[-keep:]
    for path in folder.glob(".saving_*_damaged"):
        shutil.rmtree(path, ignore_errors=True)
    for path in found(folder):
        if kept and path < kept[0]:
            shutil.rmtree(path, ignore_errors=True)
    return final


def found(folder: Path) -> list[Path]:
    """Whole checkpoints, the last one last."""
    return sorted(path for path in folder.glob("step_*") if (path / STATE).is_file())


def _read(path: Path) -> dict[str, Any]:
    return torch.load(path / STATE, map_location="cpu", weights_only=True, mmap=True)


def _good(folder: Path) -> list[Path]:
    """Those that can be read."""

    def readable(path: Path) -> bool:
        try:
            _read(path)
        except Exception:  # a damaged file fails in many ways
            return False
        return True

    return [path for path in found(folder) if readable(path)]


def load_last(folder: Path, architecture: str) -> dict[str, Any] | None:
    """The last checkpoint that can be read, None where there is none; one of another model is an error."""
    for path in reversed(found(folder)):
        try:
            state = _read(path)
        except Exception as error:  # a damaged file fails in many ways
            warnings.warn(f"{path} cannot be read, trying the one before: {error}", stacklevel=2)
            continue
        if state["architecture"] != architecture:
            raise CheckpointError(
                f"{path}: expected a checkpoint of {architecture}; found one of {state['architecture']}. "
                "For a new run set train.output to another folder."
            )
        return state
    if found(folder):
        raise CheckpointError(f"no checkpoint in {folder} can be read")
    return None


def _sync(folder: Path) -> None:
    """So that the renaming itself is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
