"""Make random generators whose seeds are a function of their purpose.

Every random draw of a run comes from a generator seeded by parts that name its purpose, for example (seed, "views",
epoch, step, rank). No random state needs to be saved, and results do not depend on the number of workers.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def seed_of(*parts: int | str) -> int:
    """Compute a 63-bit seed from all parts and their order, the same on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def torch_generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a torch generator on ``device`` for the named purpose."""
    import torch  # Here, so that luna_preprocess.py starts without it.

    return torch.Generator(device).manual_seed(seed_of(*parts))


def numpy_generator(*parts: int | str) -> np.random.Generator:
    """Make a NumPy generator for the named purpose."""
    return np.random.default_rng(seed_of(*parts))
