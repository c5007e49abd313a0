"""TensorBoard's files: a full disk costs figures, not the run."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


class Log:
    """Scalars by step. Where they cannot be written that is said once; later ones are tried in a new file."""

    def __init__(self, folder: Path, start: int) -> None:
        self.folder, self.failed = folder, False
        self.writer: SummaryWriter | None = None
        self.purge = start + 1 if start else None  # what a killed run wrote after its checkpoint

    def write(self, group: str, values: Mapping[str, float], step: int) -> None:
        def scalars(writer: SummaryWriter) -> None:
            for name, value in values.items():
                writer.add_scalar(f"{group}/{name}", value, step)

        self._try(scalars)

    def flush(self) -> None:
        self._try(SummaryWriter.flush)

    def close(self) -> None:
        self._try(SummaryWriter.close)

    def _try(self, action: Callable[[SummaryWriter], None]) -> None:
        try:
            if self.writer is None:
                self.writer = SummaryWriter(self.folder, purge_step=self.purge)
                self.purge = None
            action(self.writer)
        except OSError as error:
            broken, self.writer = self.writer, None  # its thread is gone
            if broken is not None:
                with suppress(OSError):
                    broken.close()
            if not self.failed:
                tqdm.write(f"training goes on, but figures cannot be logged in {self.folder}: {error}")
            self.failed = True
