"""Names by the million: one buffer of bytes, not a Python string each, so that start-up and workers stay small."""

from collections.abc import Iterable, Iterator

import numpy as np

# Names are hashed so many bytes at a time, which bounds the memory that takes.
HASHED_BYTES = 1 << 22
WORD = 8
# An odd number whose bits look random, from the finaliser of splitmix64.
MIX = np.uint64(0xBF58476D1CE4E5B9)
# KEPT[n] keeps the first n bytes of a word.
KEPT = np.array([(1 << (8 * n)) - 1 for n in range(WORD + 1)], dtype=np.uint64)


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
        """uint64, one a name: its words of 8 bytes, each mixed into those before. Among 10 million names, two share one
        with a probability of some 3 in a million."""
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
        starts = part.ends - lengths
        padded = np.concatenate([part.buffer, np.zeros(WORD, dtype=np.uint8)])
        # The word that begins at each byte of the buffer, at any alignment.
        words = np.ndarray((len(part.buffer) + 1,), dtype="<u8", buffer=padded, strides=(1,))
        hashed = lengths.astype(np.uint64) * MIX
        for done in range(0, int(lengths.max(initial=0)), WORD):
            some = slice(None) if done < lengths.min() else np.flatnonzero(lengths > done)
            word = words[starts[some] + done] & KEPT[np.minimum(lengths[some] - done, WORD)]
            mixed = (hashed[some] ^ word) * MIX
            hashed[some] = mixed ^ (mixed >> np.uint64(29))
        return hashed


def join_names(parts: list[NameList]) -> NameList:
    """Several lists as one."""
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0, *(len(part.buffer) for part in parts)])
    buffers = [part.buffer for part in parts] or [np.zeros(0, dtype=np.uint8)]
    ends = [part.ends + offset for part, offset in zip(parts, offsets, strict=False)] or [np.zeros(0, dtype=np.int64)]
    return NameList(np.concatenate(buffers), np.concatenate(ends))
