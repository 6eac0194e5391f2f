"""The files of one preprocessed scan, and its record: how they were made, or why there are none."""

import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from data.catalog.crop_manifest import VOLUME_ENDING, read_json, read_record, record_path
from data.catalog.scans import is_subset, list_name
from data.pairs import CropSettings
from data.readers.dicom_series import DicomSeries
from data.readers.file_names import ending_of, stem_of
from data.readers.volumes import METAIMAGES, Source, VolumeSpec, source_files
from utils.atomic import whole_file
from utils.errors import UserError

FINISHED, NEW = "finished", "new"


class Scan(NamedTuple):
    """A scan to preprocess."""

    source: Source
    target: Path
    """The folder for its crops."""
    folder: str = ""
    """The scan's folder relative to the data set's, from which :func:`data.catalog.scans.list_name` makes its name."""
    given_name: str = ""

    @property
    def name(self) -> str:
        """The given name, else the file's name without its ending; in LUNA16 the series' UID, which contains dots."""
        return self.given_name or (self.source.uid if isinstance(self.source, DicomSeries) else stem_of(self.source))

    @property
    def listed(self) -> str:
        """The scan's name in lists."""
        return list_name(self.folder, self.name)

    @property
    def volume_file(self) -> Path:
        """Path of the whole volume."""
        return self.target / f"{self.name}{VOLUME_ENDING}"

    def file(self, kind: str, number: int) -> Path:
        """Path of the crops of pair ``number``; ``kind`` is ``global`` (2 X Y Z) or ``local`` (6 16 16 16)."""
        return self.target / f"{self.name}_{kind}_{number}.npy"

    @property
    def record_file(self) -> Path:
        """Path of the scan's record, :func:`data.catalog.crop_manifest.record_path`."""
        return record_path(self.target, self.name)


def spec_of(scan: Scan, settings: CropSettings) -> VolumeSpec:
    """How the voxels of a scan are read; only LUNA16's own MetaImages keep flipped axes, as published."""
    return VolumeSpec(settings.intensity, settings.spacing, as_stored=not _is_own_metaimage(scan))


def settings_of(scan: Scan, settings: CropSettings) -> dict[str, Any]:
    """The settings of a scan's crops as its record has them."""
    return settings.as_dict() | ({"axes": "LPS"} if _is_own_metaimage(scan) else {})


def _is_own_metaimage(scan: Scan) -> bool:
    path = scan.source
    return isinstance(path, Path) and ending_of(path) in METAIMAGES and not is_subset(path.absolute().parent.name)


def describe_files(source: Source) -> dict[str, list[int]]:
    """Size in bytes and modification time in ns of a scan's files, by name, to detect that the scan has changed.

    Those of a series are added up, and the latest time is taken. Their folder is left out, so that a data set may be
    moved, or copied with its times (``cp -a``, ``rsync -a``),
    together with its crops. A copy with new times counts as changed.

    Raises:
        UserError: a file is missing, or the header is damaged.
    """
    files = {}
    for path in source_files(source):
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from None
        files[path.name] = [status.st_size, status.st_mtime_ns]
    if isinstance(source, DicomSeries):
        sizes, times = zip(*files.values(), strict=True)
        return {f"{len(source.files)} slices": [sum(sizes), max(times)]}
    return files


def remove_surplus(scan: Scan, pairs: int) -> None:
    """Remove pairs of an earlier run from number ``pairs`` on, as a larger ``--scale`` leaves them."""
    while scan.file("global", pairs).exists() or scan.file("local", pairs).exists():
        for kind in ("global", "local"):
            scan.file(kind, pairs).unlink(missing_ok=True)
        pairs += 1


def record_failure(scan: Scan, settings: CropSettings, reason: str) -> None:
    """Record why a scan gave no crops, and remove crops of an earlier version of its file.

    Raises:
        UserError: the record cannot be written.
    """
    # Names that are too long for the file system cannot exist.
    with contextlib.suppress(OSError):
        scan.target.mkdir(parents=True, exist_ok=True)
        remove_surplus(scan, 0)
        scan.volume_file.unlink(missing_ok=True)
    write_record(scan, {"scan": scan.listed, "settings": settings_of(scan, settings), "pairs": 0, "failure": reason})


def write_record(scan: Scan, record: dict[str, Any]) -> None:
    """Write the record of a scan."""
    with whole_file(scan.record_file, "w") as file:
        json.dump(record, file, indent=1)


def state_of(scan: Scan, settings: CropSettings) -> str:
    """The state of a scan: ``FINISHED``, ``NEW``, or why it must be preprocessed again, to follow "4 scans ...".

    Raises:
        UserError: a file of another program has the name of the scan's record.
    """
    record = read_record(scan.record_file)
    if record is None:
        return _state_without_record(scan)
    if "failure" in record:
        return "failed before and are tried again"
    if record["settings"] != settings_of(scan, settings):
        return "have crops of other settings"
    crops = (scan.file(kind, i) for kind in ("global", "local") for i in range(record["pairs"]))
    if not all(path.exists() for path in ([scan.volume_file] if settings.volumes else crops)):
        return "lack some of their crops"
    return FINISHED if _unchanged(scan, record) else "changed since their crops were made"


def _state_without_record(scan: Scan) -> str:
    if read_json(scan.record_file) is not None:
        raise UserError(
            f"--save: expected a folder for crops, {scan.record_file} is another program's file, which the "
            f"record of {scan.source} would replace; give another folder"
        )
    try:
        has_crops = scan.file("global", 0).exists() or scan.volume_file.exists()
    except OSError:  # the name is too long
        has_crops = False
    return "have crops without a record of how they were made" if has_crops else NEW


def _unchanged(scan: Scan, record: dict[str, Any]) -> bool:
    """Whether the scan's files are those of the record; older records have no sizes and times, only their own time."""
    try:
        now = describe_files(scan.source)
        if "files" in record:
            return bool(record["files"] == now)
        return max(time for _, time in now.values()) <= scan.record_file.stat().st_mtime_ns
    except (UserError, OSError):  # preprocessing the scan again reports the error
        return False
