"""A name for each meeting of processes, so that what an earlier one left in their store is never taken for its own.

torchrun keeps one store over all restarts. The addresses that killed processes left there would be read by those
started in their place, which then wait for answers that never come.
"""

import time
import uuid

from torch.distributed import Store

from utils.errors import UserError
from utils.world import World

POLL_SECONDS = 0.02


def agree_on_name(store: Store, world: World, *, timeout: float) -> str:
    """A name that all processes of this meeting return, and that no earlier meeting in the same store had.

    Every process writes a token of its own. The first one proposes all tokens as the name, again whenever one of them
    changes; a process that finds its own token in the proposal says that it saw it. When all have, the name stands:
    a process of an earlier meeting cannot have seen a token that was drawn in this one.

    Args:
        store: what the processes share.
        world: this process's place.
        timeout: seconds.

    Raises:
        UserError: some process did not come in time.
    """
    token, deadline = uuid.uuid4().hex, time.monotonic() + timeout
    everyone = range(world.size)
    store.set(f"token/{world.rank}", token)
    while time.monotonic() < deadline:
        if world.is_main:
            store.set("proposal", " ".join(_read(store, f"token/{rank}") for rank in everyone))
        proposal = _read(store, "proposal")
        if token in proposal.split(" "):
            store.set(f"seen/{world.rank}", proposal)
            if world.is_main and all(_read(store, f"seen/{rank}") == proposal for rank in everyone):
                store.set("name", proposal)
            if _read(store, "name") == proposal:
                return uuid.uuid5(uuid.NAMESPACE_OID, proposal).hex
        time.sleep(POLL_SECONDS)
    raise UserError(f"expected {world.size} processes to meet within {timeout:.0f} s, some did not come")


def _read(store: Store, key: str) -> str:
    """What is in the store; nothing where there is nothing yet, without waiting for it."""
    return store.get(key).decode() if store.check([key]) else ""
