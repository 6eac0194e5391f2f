"""Nobody waits for ever for the main process's work: not when it fails, nor when that process is killed."""

import os
import signal
import threading
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from tests.processes import CONTEXT, free_port
from utils.distributed import is_peer_failure
from utils.errors import UserError
from utils.main_first import main_first


def outcome_of_waiting(store, **names):
    """What a process that waits ends with, as a list that fills."""
    ended = []

    def wait():
        try:
            ended.append(main_first(store, lambda: pytest.fail("not its work"), is_main=False, **names))
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return ended, thread


def test_the_others_return_when_the_work_is_done():
    store, done = dist.HashStore(), []
    ended, thread = outcome_of_waiting(store, what="a")
    time.sleep(0.3)
    assert not ended
    main_first(store, lambda: done.append(1), what="a", is_main=True)
    thread.join(10)
    assert ended == [None] and done == [1]


@pytest.mark.parametrize("error", [UserError("--cache: full"), KeyboardInterrupt()])
def test_the_others_fail_when_it_fails(error):
    def work():
        raise error

    store = dist.HashStore()
    main_first(store, lambda: None, what="other work", is_main=True)
    ended, thread = outcome_of_waiting(store, what="a")
    with pytest.raises(type(error)):
        main_first(store, work, what="a", is_main=True)
    thread.join(10)
    assert isinstance(ended[0], UserError)
    assert str(ended[0]) == f"the main process failed: {str(error) or 'KeyboardInterrupt'}"


def test_a_world_of_one_just_works():
    done = []
    main_first(None, lambda: done.append(1), what="a", is_main=True)
    assert done == [1]


def _host_and_die(port):
    store = dist.TCPStore("127.0.0.1", port, 2, is_master=True, timeout=timedelta(seconds=30), wait_for_workers=False)
    store.wait(["here"])
    main_first(store, lambda: os.kill(os.getpid(), signal.SIGKILL), what="a", is_main=True)


def test_the_others_fail_when_the_main_process_is_killed():
    port = int(free_port())
    process = CONTEXT.Process(target=_host_and_die, args=(port,))
    process.start()
    store = dist.TCPStore("127.0.0.1", port, 2, timeout=timedelta(seconds=30))
    store.set("here", "")
    ended, thread = outcome_of_waiting(store, what="a")
    thread.join(30)
    process.join(30)
    assert isinstance(ended[0], RuntimeError) and is_peer_failure(ended[0])
