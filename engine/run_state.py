"""Saves and loads the state of a run, which an exact resume needs: the last state and the one before it."""

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from utils.atomic import remove_leftovers, temporary_name, whole_file
from utils.checkpoints import on_cpu, read_checkpoint
from utils.errors import UsageError, UserError
from utils.options import DEFAULTS, plain

LAST, PREVIOUS = "last.pt", "previous.pt"
# At the ends of epochs, states are written in at most this share of the time.
SAVING_SHARE = 0.05


class Position(NamedTuple):
    """The next step of a run."""

    epoch: int = 0
    step: int = 0


class RunState:
    """Saves and loads the state of a run.

    Args:
        folder: of the states, ``OUTPUT/state``.
        fixed: values that must not change when a run is resumed, by option name.
        save_minutes: minutes between two saves within an epoch.
        is_main: whether this process writes (rank 0 only).
    """

    def __init__(self, folder: Path, *, fixed: Mapping[str, Any], save_minutes: float, is_main: bool = True) -> None:
        self.folder, self.fixed, self.is_main = folder, dict(fixed), is_main
        self.save_seconds = 60 * save_minutes
        self.saved_at, self.last_took = time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether ``save_minutes`` have passed since the last save."""
        return self.is_main and time.monotonic() - self.saved_at >= self.save_seconds

    def cheap(self) -> bool:
        """Whether a save now would be a small part of the time since the last one, going by what that took."""
        return self.due() or time.monotonic() - self.saved_at >= self.last_took / SAVING_SHARE

    def save(self, position: Position, content: Mapping[str, Any]) -> None:
        """Write ``last.pt`` atomically; the state before it becomes ``previous.pt``.

        Raises:
            UserError: the folder cannot be written, or the disk is full; existing states are not changed.
        """
        if not self.is_main:
            return
        started = time.monotonic()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make {self.folder}: {error.strerror or error}") from error
        last, previous = self.folder / LAST, self.folder / PREVIOUS
        state = {"position": list(position), "fixed": self.fixed, **content}
        with whole_file(last, before_replace=lambda: _keep_as(last, previous)) as file:
            torch.save(on_cpu(state), file)
        self.saved_at = time.monotonic()
        self.last_took = self.saved_at - started

    def find(self, resume: str | None) -> dict[str, Any] | None:
        """The state to resume from, on the CPU, or None for a new run.

        Args:
            resume: ``'auto'``: the newest readable state of this folder, if there is one; or a path; or None.

        Raises:
            UsageError: an option differs from the run to resume; or ``resume`` is None and the folder holds a run.
            UserError: the named state cannot be read.
        """
        found = [path for path in (self.folder / LAST, self.folder / PREVIOUS) if path.exists()]
        if resume is None:
            if found:
                raise UsageError(
                    f"--output: {self.folder.parent} holds a run already; "
                    "resume it with --resume auto, or give another folder"
                )
            return None
        if resume != "auto":
            return self._checked(Path(resume))
        return self._newest_readable(found) if found else None

    def _newest_readable(self, paths: list[Path]) -> dict[str, Any]:
        for path in paths[:-1]:
            try:
                return self._checked(path)
            except UsageError:
                raise
            except UserError:
                continue
        return self._checked(paths[-1])

    def _checked(self, path: Path) -> dict[str, Any]:
        state = read_checkpoint(path)
        if "position" not in state or "fixed" not in state:
            raise UserError(f"--resume: {path} holds weights, not the state of a run; start from weights with --init")
        for name, value in self.fixed.items():
            # A state from before an option existed is of a run with its default.
            before = state["fixed"].get(name, plain(DEFAULTS.get(name)))
            if before != value:
                raise UsageError(
                    f"--resume: {name} was {before} in {path} and is {value} now; it must not change within a run"
                )
        return state


def _keep_as(path: Path, previous: Path) -> None:
    """Make ``previous`` a second name of the file, so that it remains when ``path`` is replaced.

    At any moment at least one of the two names exists.
    """
    if not path.exists():
        return
    remove_leftovers(previous)
    spare = temporary_name(previous)
    spare.unlink(missing_ok=True)
    try:
        os.link(path, spare)
    except OSError:  # a file system without hard links
        with open(path, "rb") as source, whole_file(previous) as copy:
            shutil.copyfileobj(source, copy)
    else:
        spare.replace(previous)
