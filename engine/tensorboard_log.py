"""Writes TensorBoard's file; a run continues when that fails."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from utils.progress import say


class TensorBoardLog:
    """Writes scalars and pictures; on an error prints one line and writes nothing more.

    Args:
        folder: of the file.
        purge_step: TensorBoard discards earlier records from this step on, which a resumed run writes again.
    """

    def __init__(self, folder: Path, *, purge_step: int) -> None:
        self.folder = folder
        self.writer: SummaryWriter | None = None
        # On an error the writer's thread prints a traceback, which this hook suppresses; the next call raises it.
        self.usual_hook = threading.excepthook
        threading.excepthook = self._hook
        with self._writing():
            self.writer = SummaryWriter(str(folder), purge_step=purge_step)

    def _hook(self, failed: threading.ExceptHookArgs) -> None:
        ours = type(failed.thread).__module__.startswith("tensorboard.")
        if not (ours and isinstance(failed.exc_value, OSError)):
            self.usual_hook(failed)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            say(f"cannot write {self.folder}: {error.strerror or error}; TensorBoard's curves end here")
            self._end()

    def scalars(self, numbers: Mapping[str, float], step: int) -> None:
        """Write numbers by their names in TensorBoard."""
        if self.writer is not None:
            with self._writing():
                for name, value in numbers.items():
                    self.writer.add_scalar(name, value, step)

    def image(self, name: str, picture: Tensor, step: int) -> None:
        """Write a picture, 3 H W in 0..1."""
        if self.writer is not None:
            with self._writing():
                self.writer.add_image(name, picture, step)

    def close(self) -> None:
        """Write what is in memory and close the file."""
        if self.writer is not None:
            with self._writing():
                self.writer.close()
            self._end()

    def _end(self) -> None:
        self.writer = None
        threading.excepthook = self.usual_hook
