"""Processes that meet agree on a name, whatever earlier processes left in the store."""

import itertools
import threading
import time

import pytest
from torch.distributed import HashStore, PrefixStore

from utils.errors import UserError
from utils.rendezvous import agree_on_name
from utils.world import World


def meet(store, size, delays=(0, 0, 0)):
    """Names that threads in the place of processes agree on."""
    names = {}

    def come(rank):
        time.sleep(delays[rank])
        names[rank] = agree_on_name(store, World(rank, size), timeout=20)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return names


def test_all_agree_and_every_meeting_has_another_name():
    store, names = HashStore(), []
    for order in itertools.permutations((0, 0.03, 0.1)):
        found = meet(store, 3, order)
        assert len(found) == 3 and len(set(found.values())) == 1
        names.append(found[0])
    assert len(set(names)) == 6


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_those_that_were_killed_on_the_way_do_not_count(killed):
    """Two of three came, one never did; then all three come, the killed one's place last or first."""
    store = PrefixStore("meeting", HashStore())
    for rank in {0, 1, 2} - {killed}:
        with pytest.raises(UserError, match="expected 3 processes to start"):
            agree_on_name(store, World(rank, 3), timeout=0.05)
    for late in range(3):
        found = meet(store, 3, [0.1 * (rank == late) for rank in range(3)])
        assert len(set(found.values())) == 1 and len(found) == 3
