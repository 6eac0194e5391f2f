"""DICOM series for tests: the slices of a volume, written by hand so that they can be wrong in every way."""

from pathlib import Path

import numpy as np

from tests.dicom_files import dicom_bytes, rescale

CT = "1.2.840.10008.5.1.4.1.1.2"
UID, IDENTITY = "1.2.840.77", (1.0, 0, 0, 0, 1, 0)
SPACING, ORIGIN = (0.75, 0.625, 2.5), (-19.375, 7.25, -302.5)


def numbers(values):
    return "\\".join(f"{value:.9g}" for value in values)


def write_slice(path, pixels, position, *, uid=UID, instance, orientation=IDENTITY, spacing=SPACING, extra=()):
    """One slice of HU, Y X, at a position in mm; ``extra`` elements replace those here."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = (pixels + 1024).astype(np.uint16)
    elements = [
        (0x00080016, "UI", CT), (0x00080018, "UI", f"{uid}.{instance}"), (0x00080060, "CS", "CT"),
        (0x0020000E, "UI", uid), (0x00200032, "DS", numbers(position)), (0x00200037, "DS", numbers(orientation)),
        (0x00280030, "DS", numbers((spacing[1], spacing[0]))), *rescale(1, -1024), *extra,
    ]  # fmt: skip
    path.write_bytes(dicom_bytes(stored, extra=elements))
    return path


def write_series(
    folder, volume, *, origin=ORIGIN, orientation=IDENTITY, spacing=SPACING, positions=None, first=0, **slices
):
    """All slices of HU, Z Y X, with file names in another order than their positions.

    ``positions``: of the first voxels, mm, instead of those along the normal; ``first``: number of the first instance.
    """
    axes = np.array(orientation, dtype=float).reshape(2, 3)
    step = np.cross(*axes) * spacing[2]
    if positions is None:
        positions = [np.array(origin) + i * step for i in range(len(volume))]
    for i, (pixels, position) in enumerate(zip(volume, positions, strict=True)):
        name = f"IM{(7 * i) % 101:04}"  # without an ending, as on discs
        write_slice(
            Path(folder) / name,
            pixels,
            position,
            orientation=orientation,
            spacing=spacing,
            instance=first + i,
            **slices,
        )
    return Path(folder)
