"""``PCRL_PLAIN=1`` switches off every trick of speed, so that a doubt about one of them can be settled.

The tricks, each in one file that opens with what it gains: ``utils/reused_memory.py``, ``data/readers/png.py``,
``data/transforms/{chunks,box_blur,interleaved}.py`` and ``models/upsampling.py``. Plain code gives the same numbers,
but for rounding where a file says so.
"""

import os

VARIABLE = "PCRL_PLAIN"


def plain() -> bool:
    """Whether tricks are switched off: the environment has ``PCRL_PLAIN`` with anything but 0."""
    return os.environ.get(VARIABLE, "0") not in ("", "0")
