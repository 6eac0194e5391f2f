"""Stop signals of schedulers, on which a run saves its state and ends."""

import signal
from types import FrameType

# EX_TEMPFAIL of sysexits.h: try again later. The SLURM script requeues the job on this exit status.
EXIT_STATUS = 75


class Stopped(Exception):
    """The run got a stop signal; its state is saved."""


class StopSignals:
    """Records SIGTERM and SIGUSR1, which schedulers send before they end a job."""

    def __init__(self) -> None:
        self.received: str | None = None
        for name in ("SIGTERM", "SIGUSR1"):
            if hasattr(signal, name):  # Windows has no SIGUSR1
                signal.signal(getattr(signal, name), self._record)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
