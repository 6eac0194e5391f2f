"""Count the processor cores that can be used."""

import os


def available_cores() -> int:
    """Number of cores that this process may use; all of the machine's on systems without this limit, such as macOS."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
