"""Lists of millions of names in one buffer of bytes, which takes less memory and start-up time than Python strings."""

from collections.abc import Iterable, Iterator

import numpy as np

# Bytes of names that are hashed at a time, which bounds the memory needed.
HASH_CHUNK_BYTES = 1 << 22
WORD = 8
# Multiplier of the finaliser of splitmix64: odd, with irregular bits.
MIX = np.uint64(0xBF58476D1CE4E5B9)
# BYTE_MASKS[n] keeps the first n bytes of a word.
BYTE_MASKS = np.array([(1 << (8 * n)) - 1 for n in range(WORD + 1)], dtype=np.uint64)


class NameList:
    """An immutable list of names.

    Args:
        buffer: uint8, the bytes of all names, concatenated.
        ends: int64, the end of each name in the buffer, where the next one starts.
    """

    def __init__(self, buffer: np.ndarray, ends: np.ndarray) -> None:
        self.buffer, self.ends = buffer, ends

    @classmethod
    def of(cls, names: Iterable[str | bytes]) -> "NameList":
        """Make a list from strings or bytes."""
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
        """int64, the length of each name in bytes."""
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
        """Hash each name to uint64 by mixing in its 8-byte words one after the other.

        The probability that any two of 10 million names have the same hash is about 3 in a million.
        """
        hashes = [self._hash_range(start, stop) for start, stop in self._ranges()]
        return np.concatenate(hashes) if hashes else np.zeros(0, dtype=np.uint64)

    def _ranges(self) -> Iterator[tuple[int, int]]:
        start = 0
        while start < len(self):
            offset = self.ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(self.ends, offset + HASH_CHUNK_BYTES, side="right")))
            yield start, stop
            start = stop

    def _hash_range(self, start: int, stop: int) -> np.ndarray:
        names = self.slice(start, stop)
        lengths = names.lengths
        starts = names.ends - lengths
        padded = np.concatenate([names.buffer, np.zeros(WORD, dtype=np.uint8)])
        # The 8-byte word that starts at each byte of the buffer, aligned or not.
        words = np.ndarray((len(names.buffer) + 1,), dtype="<u8", buffer=padded, strides=(1,))
        hashed = lengths.astype(np.uint64) * MIX
        for done in range(0, int(lengths.max(initial=0)), WORD):
            longer = slice(None) if done < lengths.min() else np.flatnonzero(lengths > done)
            word = words[starts[longer] + done] & BYTE_MASKS[np.minimum(lengths[longer] - done, WORD)]
            mixed = (hashed[longer] ^ word) * MIX
            hashed[longer] = mixed ^ (mixed >> np.uint64(29))
        return hashed


def join_names(lists: list[NameList]) -> NameList:
    """Concatenate several lists."""
    if len(lists) == 1:
        return lists[0]
    offsets = np.cumsum([0, *(len(names.buffer) for names in lists)])
    buffers = [names.buffer for names in lists] or [np.zeros(0, dtype=np.uint8)]
    ends = [names.ends + offset for names, offset in zip(lists, offsets, strict=False)] or [np.zeros(0, dtype=np.int64)]
    return NameList(np.concatenate(buffers), np.concatenate(ends))
