"""Packages that only some commands need."""

import importlib
from typing import Any

from utils.errors import UserError


def import_optional(package: str, purpose: str) -> Any:
    """An optional package.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"{purpose} needs the package {package}, which is not installed: pip install -r requirements-downstream.txt"
        ) from None
