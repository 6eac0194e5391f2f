"""Room on a disk is really taken, with the system's call or without it."""

import errno
import os

import pytest

from utils.errors import UserError
from utils.reserve import reserve

SIZE = 3 << 20


@pytest.mark.parametrize("call", ["there", "not there", "unable"])
def test_room_is_taken(tmp_path, monkeypatch, call):
    def unable(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    if call == "not there":
        monkeypatch.delattr(os, "posix_fallocate")
    elif call == "unable":
        monkeypatch.setattr(os, "posix_fallocate", unable)
    monkeypatch.setattr("utils.reserve.BLOCK", 1 << 20)
    reserve(tmp_path / "room", SIZE - 1)
    status = (tmp_path / "room").stat()
    assert status.st_size == SIZE - 1 and status.st_blocks * 512 >= SIZE - 1
    assert not any((tmp_path / "room").read_bytes())


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match="No space left"):
        reserve(tmp_path / "room", SIZE)
    assert not list(tmp_path.iterdir())
