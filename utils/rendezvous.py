"""Agree on a unique name for each start of a process group, so that it ignores entries of earlier starts in the store.

torchrun keeps one store over all restarts. Without the name, restarted processes would read the addresses of killed
ones and wait for them for ever.
"""

import time
import uuid

from torch.distributed import Store

from utils.errors import UserError
from utils.world import World

POLL_SECONDS = 0.02


def agree_on_name(store: Store, world: World, *, timeout: float) -> str:
    """Return a name that is the same in all processes of this start and different from those of earlier starts.

    Every process writes a random token. The main process proposes the list of all tokens as the name, again whenever
    one changes. A process that finds its own token in the proposal confirms it. The name is final when all processes
    have confirmed it: a process of an earlier start cannot have confirmed a token drawn in this one.

    Args:
        store: the store that the processes share.
        world: the rank of this process and the number of processes.
        timeout: seconds.

    Raises:
        UserError: some process did not start in time.
    """
    token, deadline = uuid.uuid4().hex, time.monotonic() + timeout
    ranks = range(world.size)
    store.set(f"token/{world.rank}", token)
    while time.monotonic() < deadline:
        if world.is_main:
            store.set("proposal", " ".join(_read(store, f"token/{rank}") for rank in ranks))
        proposal = _read(store, "proposal")
        if token in proposal.split(" "):
            store.set(f"seen/{world.rank}", proposal)
            if world.is_main and all(_read(store, f"seen/{rank}") == proposal for rank in ranks):
                store.set("name", proposal)
            if _read(store, "name") == proposal:
                return uuid.uuid5(uuid.NAMESPACE_OID, proposal).hex
        time.sleep(POLL_SECONDS)
    raise UserError(f"expected {world.size} processes to start within {timeout:.0f} s, some did not")


def _read(store: Store, key: str) -> str:
    """The value of a key in the store; an empty string where it is not set yet, without waiting."""
    return store.get(key).decode() if store.check([key]) else ""
