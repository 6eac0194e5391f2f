"""How a loader worker starts."""

import gc
import signal

import torch


def start_worker(worker: int) -> None:
    """One thread a worker, signals as the main process wants them, and no copy of that one's objects."""
    torch.set_num_threads(1)
    # The garbage collector writes to all that it looks at: 50 MB of pages shared with the main process became copies.
    gc.freeze()
    # The main process decides when to stop: it notes SIGTERM and ends the workers, by SIGTERM if they hang.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
