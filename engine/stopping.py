"""Stop signals of schedulers, on which a run saves its state and ends."""

import contextlib
import signal
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

# EX_TEMPFAIL of sysexits.h: try again later. The SLURM script requeues the job on this exit status.
EXIT_STATUS = 75


class Stopped(Exception):
    """The run got a stop signal; its state is saved."""


STOP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]
"""What schedulers send before they end a job; Windows has no SIGUSR1."""


class StopSignals:
    """Records stop signals from now on until :meth:`restore`."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._before = {number: signal.signal(number, self._record) for number in STOP_SIGNALS}

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name

    def restore(self) -> None:
        """Give the signals back to whoever had them before, so that none is swallowed once nobody asks."""
        _give_back(self._before)
        self._before = {}


@contextlib.contextmanager
def stopped_at_once() -> Iterator[None]:
    """Raise :class:`Stopped` in the block when a stop signal comes, except where a training records it."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        _give_back(before)


def _give_back(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        # None: whoever had it was not Python.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
