"""Describe the program that made a run: its version and those of its packages."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

VERSION = "1.1.0"
PACKAGES = ("torch", "torchvision", "segmentation-models-pytorch", "SimpleITK", "numpy", "scipy")


def describe_program() -> dict[str, Any]:
    """Versions of this program, Python and the packages, and the git revision where there is one."""
    return {
        "version": VERSION,
        "python": platform.python_version(),
        "versions": _versions(),
        "git_revision": git_revision(),
    }


def describe_version() -> str:
    """One line: this program's version, its git revision where there is one, and torch's version."""
    revision = git_revision()
    return f"PCRLv2 {VERSION}" + (f" ({revision})" if revision else "") + f", torch {_versions()['torch']}"


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
