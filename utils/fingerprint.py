"""One short hash of what must not change: names, arrays and plain facts."""

import hashlib

import numpy as np

BYTES = 8


def fingerprint_of(*values: str | np.ndarray, size: int = BYTES) -> str:
    """Hexadecimal, ``size`` bytes: of texts in UTF-8 and of arrays' values in C order, one after the other."""
    digest = hashlib.blake2b(digest_size=size)
    for value in values:
        digest.update(value.encode() if isinstance(value, str) else np.ascontiguousarray(value).data)
    return digest.hexdigest()
