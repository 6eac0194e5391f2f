"""Imports packages that only some commands need; a missing one ends the run, or omits a picture, with one line."""

import importlib
import sys
from typing import Any

from utils.errors import UserError


def import_optional(package: str, purpose: str) -> Any:
    """Import a package that is required.

    Args:
        package: the module, such as ``sklearn.metrics``.
        purpose: the option or the task that needs it.

    Raises:
        UserError: it is not installed.
    """
    module = _imported(package)
    if module is None:
        raise UserError(
            f"{purpose} needs the package {package}, which is not installed: pip install -r requirements-downstream.txt"
        )
    return module


def import_for_picture(package: str, picture: str) -> Any | None:
    """Import a package for drawing; prints a line on stderr and returns None if it is not installed.

    Args:
        package: the module, such as ``matplotlib.figure``.
        picture: name of the file that needs it.
    """
    module = _imported(package)
    if module is None:
        name = package.partition(".")[0]
        print(f"{picture} is left out: {name} is not installed (pip install {name})", file=sys.stderr)
    return module


def _imported(package: str) -> Any | None:
    try:
        return importlib.import_module(package)
    except ImportError:
        return None
