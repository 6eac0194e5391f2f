"""File names and their endings."""

from pathlib import Path

SCANS = (".mhd", ".mha", ".nii", ".nii.gz", ".nrrd")
"""Endings of scans, in upper or lower case."""


def ending_of(path: Path) -> str:
    """Return the ending in lower case: ``.nii.gz`` of ``a.b.nii.gz``, ``.png`` of ``a.b.PNG``."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def stem_of(path: Path) -> str:
    """Return the name without its ending."""
    return path.name[: len(path.name) - len(ending_of(path))]
