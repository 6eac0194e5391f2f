"""Compute one short hash of names, arrays and settings, to detect that they have changed."""

import hashlib

import numpy as np

BYTES = 8


def fingerprint_of(*values: str | np.ndarray, size: int = BYTES) -> str:
    """Hash texts (UTF-8) and array values (C order), one after the other, to ``size`` bytes in hexadecimal."""
    digest = hashlib.blake2b(digest_size=size)
    for value in values:
        digest.update(value.encode() if isinstance(value, str) else np.ascontiguousarray(value).data)
    return digest.hexdigest()
