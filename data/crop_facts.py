"""How the crops that pre-train were made: what features and exports of the weights need to know."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.catalog.crop_manifest import read_record, record_path
from data.datasets.luna import GLOBAL, CropFile, CropFiles
from data.fresh_crops import FreshCrops
from data.pairs import CropSettings
from utils.notes import note

# The entry of a weight file's options.
CROPS = "crops"


def describe_crops(dataset: object) -> dict[str, Any]:
    """Return ``{"crops": {"window": ..., "intensity": ..., "spacing": ...}}`` of crops, and nothing of images.

    ``window`` is the shape of a crop in voxels, ``spacing`` in mm. Intensity and spacing are left out where the crops
    have no records, as those of the published program, or were made in several ways, which is reported on stderr.
    """
    window: tuple[int, ...]
    settings: set[CropSettings | None]
    if isinstance(dataset, FreshCrops):
        window, settings = dataset.settings[0].shape, set(dataset.settings)
    elif isinstance(dataset, CropFiles):
        window, settings = dataset.shapes[0][1:], set(_settings_of(dataset.crops))
    else:
        return {}
    made = {(one.intensity, one.spacing) for one in settings if one is not None}
    if len(made) > 1:
        ways = ", ".join(f"{intensity} at {spacing:g} mm" for intensity, spacing in sorted(made))
        note(f"--data: the crops were made in several ways ({ways}); the weights do not say in which")
    known = {} if len(made) != 1 or None in settings else dict(zip(("intensity", "spacing"), *made, strict=True))
    return {CROPS: {"window": list(window), **known}}


def _settings_of(crops: Iterable[CropFile]) -> Iterable[CropSettings | None]:
    """The settings in the records beside crops; None for a scan without a record."""
    for path in {_record_of(crop.pair) for crop in crops}:
        record = read_record(path)
        yield None if record is None else CropSettings.from_record(record["settings"])


def _record_of(pair: Path) -> Path:
    match = GLOBAL.fullmatch(pair.name)
    assert match is not None
    return record_path(pair.parent, match["scan"])
