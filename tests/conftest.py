"""Data that tests of several files share."""

import pytest

from data.phantoms.dataset import make_xrays


@pytest.fixture(scope="session")
def nih(tmp_path_factory):
    """Thirty made-up X-rays with labels, in NIH ChestX-ray14's layout; read, never written."""
    root = tmp_path_factory.mktemp("made") / "nih"
    make_xrays(root, 30, 3, size=72)
    return root
