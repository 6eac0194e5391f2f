"""What program made a run: versions of its packages and of itself."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "segmentation-models-pytorch", "SimpleITK", "numpy", "scipy")


def describe_program() -> dict[str, Any]:
    """Versions of Python and of the packages, and this program's git revision where there is one."""
    return {"python": platform.python_version(), "versions": _versions(), "git_revision": git_revision()}


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_revision() -> str | None:
    """The commit that is checked out, with ``-dirty`` when files differ from it; None outside a checkout."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
