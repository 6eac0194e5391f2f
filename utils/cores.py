"""How many processor cores there are."""

import os


def available_cores() -> int:
    """Those that this process may use; all of the machine's where the system does not tell, as macOS."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
