"""TensorBoard's file: curves and pictures to look at, without which a run goes on."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from utils.progress import say


class TensorBoardLog:
    """Writes scalars and pictures; when that fails, one line says so and no more is written.

    Args:
        folder: where the file goes.
        purge_step: what TensorBoard has of steps from here on, of a run that is resumed, counts no more.
    """

    def __init__(self, folder: Path, *, purge_step: int) -> None:
        self.folder = folder
        self.writer: SummaryWriter | None = None
        # The writer's thread dies of an error with a traceback, and the next call raises the error once more.
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
        """Numbers by their names in TensorBoard."""
        if self.writer is not None:
            with self._writing():
                for name, value in numbers.items():
                    self.writer.add_scalar(name, value, step)

    def image(self, name: str, picture: Tensor, step: int) -> None:
        """A picture, 3 H W in 0..1."""
        if self.writer is not None:
            with self._writing():
                self.writer.add_image(name, picture, step)

    def close(self) -> None:
        """Write what is still in memory."""
        if self.writer is not None:
            with self._writing():
                self.writer.close()
            self._end()

    def _end(self) -> None:
        self.writer = None
        threading.excepthook = self.usual_hook
