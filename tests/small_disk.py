"""A disk that is full after so many bytes, without the rights that making a real one takes."""

import builtins
import errno
import io
import os


class SmallDisk:
    """What is opened for writing shares ``room`` bytes; as on a real disk, a write may be cut short before it fails.

    Args:
        monkeypatch: whose ``undo`` gives the room back.
        room: bytes.
        only: part of the paths that lie on the disk.
    """

    def __init__(self, monkeypatch, room, only=""):
        self.room, self.written, disk, whole = room, 0, self, builtins.open

        class Raw(io.FileIO):
            def write(self, data):
                data = memoryview(data).cast("B")
                fits = min(len(data), disk.room - disk.written)
                if fits <= 0 < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                disk.written += fits
                return super().write(data[:fits])

        def open_(path, mode="r", buffering=-1, encoding=None, *args, **kwargs):
            if not set(mode) & set("wa") or only not in str(path):
                return whole(path, mode, buffering, encoding, *args, **kwargs)
            file = io.BufferedWriter(Raw(path, mode.replace("b", "").replace("t", "")))
            return file if "b" in mode else io.TextIOWrapper(file, encoding=encoding)

        monkeypatch.setattr(builtins, "open", open_)
        monkeypatch.setattr(io, "open", open_)
