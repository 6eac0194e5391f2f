"""Leaving a run in good order when the machine is taken away."""

import signal
from types import FrameType

# EX_TEMPFAIL of sysexits.h: try again later. The SLURM script requeues on it.
EXIT_STATUS = 75


class Stopped(Exception):
    """The run was asked to stop; its state is saved."""


class StopSignals:
    """Notes SIGTERM and SIGUSR1, which schedulers send before they take a machine away."""

    def __init__(self) -> None:
        self.received: str | None = None
        for name in ("SIGTERM", "SIGUSR1"):
            if hasattr(signal, name):  # Windows has no SIGUSR1
                signal.signal(getattr(signal, name), self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
