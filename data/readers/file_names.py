"""File names and their endings."""

from pathlib import Path

SCANS = (".mhd", ".mha", ".nii", ".nii.gz", ".nrrd")
"""Endings of scans, in any case of letters."""


def ending_of(path: Path) -> str:
    """``.nii.gz`` of ``a.b.nii.gz``, ``.png`` of ``a.b.PNG``."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def stem_of(path: Path) -> str:
    """The name without its ending."""
    return path.name[: len(path.name) - len(ending_of(path))]
