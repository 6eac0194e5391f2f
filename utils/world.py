"""The rank of this process among several, from torchrun's environment variables."""

import os
from typing import NamedTuple

from utils.errors import UsageError

VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


class World(NamedTuple):
    """The rank of this process: ``rank`` of ``size`` over all machines, ``local_rank`` on its own machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """True for the one process that writes and prints."""
        return self.rank == 0


def read_world() -> World:
    """Read RANK, WORLD_SIZE and LOCAL_RANK; without them, there is a single process.

    Raises:
        UsageError: a variable is not a whole number, or they contradict each other.
    """
    try:
        world = World(*(int(os.environ.get(name, default)) for name, default in VARIABLES))
    except ValueError:
        world = World(-1, -1, -1)
    if not 0 <= world.rank < world.size or world.local_rank < 0:
        given = ", ".join(f"{name}={os.environ[name]}" for name, _ in VARIABLES if name in os.environ)
        raise UsageError(f"expected RANK from 0 to WORLD_SIZE - 1, as torchrun sets them, got {given}")
    return world
