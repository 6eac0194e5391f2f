"""Names by the million: one buffer of bytes, not a Python string each, so that start-up and workers stay small."""

from collections.abc import Iterable, Iterator

import numpy as np

# Names are hashed so many bytes at a time, which bounds the memory that takes.
HASHED_BYTES = 1 << 22
PRIME = np.uint64(1099511628211)


class NameList:
    """An immutable list of names.

    Args:
        buffer: all names, one after the other, uint8.
        ends: int64, where each name ends in the buffer; it starts where the one before ends.
    """

    def __init__(self, buffer: np.ndarray, ends: np.ndarray) -> None:
        self.buffer, self.ends = buffer, ends

    @classmethod
    def of(cls, names: Iterable[str | bytes]) -> "NameList":
        """From strings or bytes."""
        encoded = [name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name for name in names]
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]
        start = self.ends[index - 1] if index else 0
        return self.buffer[start : self.ends[index]].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """int64, bytes of each name."""
        return np.diff(self.ends, prepend=0)

    def slice(self, start: int, stop: int) -> "NameList":
        """Names ``start`` to ``stop``; shares the buffer."""
        first = int(self.ends[start - 1]) if start else 0
        last = int(self.ends[stop - 1]) if stop else 0
        return NameList(self.buffer[first:last], self.ends[start:stop] - first)

    def keep(self, mask: np.ndarray) -> "NameList":
        """The names where ``mask`` is True."""
        lengths = self.lengths
        return NameList(self.buffer[np.repeat(mask, lengths)], np.cumsum(lengths[mask]))

    def hashes(self) -> np.ndarray:
        """uint64, one a name: the polynomial Σ (byte + 1)·PRIME^place modulo 2^64, mixed. Among 10 million names, two
        share one with a probability of some 3 in a million."""
        parts = [self._hash_some(start, stop) for start, stop in self._portions()]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)

    def _portions(self) -> Iterator[tuple[int, int]]:
        start = 0
        while start < len(self):
            offset = self.ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(self.ends, offset + HASHED_BYTES, side="right")))
            yield start, stop
            start = stop

    def _hash_some(self, start: int, stop: int) -> np.ndarray:
        part = self.slice(start, stop)
        lengths = part.lengths
        if not len(part.buffer):
            return np.zeros(len(part), dtype=np.uint64)
        starts = part.ends - lengths
        powers = np.cumprod(np.full(int(lengths.max()), PRIME), dtype=np.uint64)
        place = np.arange(len(part.buffer), dtype=np.int64) - np.repeat(starts, lengths)
        values = (part.buffer.astype(np.uint64) + np.uint64(1)) * powers[place]
        # reduceat gives an empty name the value at its place; no list holds empty names.
        hashed = np.add.reduceat(values, np.minimum(starts, len(values) - 1))
        hashed ^= hashed >> np.uint64(29)
        return hashed * np.uint64(0xBF58476D1CE4E5B9)


def join_names(parts: list[NameList]) -> NameList:
    """Several lists as one."""
    offsets = np.cumsum([0, *(len(part.buffer) for part in parts)])
    buffers = [part.buffer for part in parts] or [np.zeros(0, dtype=np.uint8)]
    ends = [part.ends + offset for part, offset in zip(parts, offsets, strict=False)] or [np.zeros(0, dtype=np.int64)]
    return NameList(np.concatenate(buffers), np.concatenate(ends))
