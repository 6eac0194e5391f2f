"""``PCRL_PLAIN=1`` switches off every optimisation for speed, so that results with and without can be compared.

The optimisations, each in one file that begins with its gain: ``utils/reused_memory.py``, ``data/readers/png.py``,
``data/transforms/{chunks,box_blur,interleaved}.py`` and ``models/upsampling.py``. Plain code gives the same results
but for rounding, where the file states it.
"""

import os

VARIABLE = "PCRL_PLAIN"


def plain() -> bool:
    """Whether optimisations are switched off: the environment variable ``PCRL_PLAIN`` is set and not 0."""
    return os.environ.get(VARIABLE, "0") not in ("", "0")
