"""Find the DICOM series below a folder that are volumes."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from data.catalog.folders import walk
from data.catalog.joins import first_names
from data.readers.dicom_series import DicomSeries, NotASlice, Slice, arrange, read_slice, volumes_of
from data.readers.dicom_tags import is_dicom
from data.readers.file_names import SCANS, ending_of
from utils.errors import UserError
from utils.notes import note
from utils.progress import progress

# Files of other volumes, those with the voxels of a header too.
VOLUMES = (*SCANS, ".raw", ".zraw")
# Files whose beginnings need not be read to know that they are not DICOM.
OTHERS = (".npy", ".npz", ".json", ".csv", ".txt", ".png", ".jpg", ".pdf", ".zip")
INDEX = "DICOMDIR"  # of a disc; it has the mark of DICOM, and no image
# Each header may wait for a network file system.
THREADS = 16


class FoundSeries(NamedTuple):
    """The DICOM series below a folder."""

    series: list[DicomSeries]
    refused: list[str]
    """One line for each series, or file of several frames, that is no volume as it is."""


def find_series(root: Path, *, verbose: bool = True) -> FoundSeries:
    """Find the DICOM series below a folder by the UIDs in their files, in order of their folders and UIDs.

    A series may be in several folders, and hold several volumes, such as echoes; a copy of a slice is used once.
    Localizers, single slices and images without a position are left out, which is reported on stderr, if ``verbose``.
    So are files that are neither DICOM nor another volume. Folders that cannot be read are passed over.
    """
    others = list[str]()
    paths = list(_dicom_files(root, others))
    by_series, left_out, refused = defaultdict[tuple[str, str], list[Slice]](list), _LeftOut(root), list[str]()
    with ThreadPoolExecutor(THREADS) as pool:
        headers = progress(
            pool.map(_read_header, paths), name="DICOM headers", unit="file", total=len(paths),
            active=verbose and bool(paths),
        )  # fmt: skip
        for path, header in zip(paths, headers, strict=True):
            if isinstance(header, Slice):
                by_series[header.series].append(header)
            elif isinstance(header, NotASlice):
                left_out.add(header.kind, [path], header.reason)
            else:
                refused.append(str(header))
    found = list[DicomSeries]()
    for slices in by_series.values():
        volumes = volumes_of(_without_strays(slices, left_out))
        for number, volume in enumerate(volumes, 1):
            folder = Path(os.path.commonpath([one.path.parent for one in volume]))
            try:
                found.append(arrange(volume, folder, number if len(volumes) > 1 else None))
            except UserError as error:
                refused.append(str(error))
    if verbose:
        left_out.report(len(paths))
        if others:
            note(f"{root}: left out: {len(others)} files that are no volumes ({first_names(others)})")
    return FoundSeries(sorted(found, key=lambda series: (series.folder, series.uid)), refused)


def holds_dicom(root: Path) -> bool:
    """Whether a file below a folder is DICOM."""
    return any(True for _ in _dicom_files(root))


def _dicom_files(root: Path, others: list[str] | None = None) -> Iterator[Path]:
    """Yield the DICOM files below a folder; the names of files that are no volumes are appended to ``others``."""
    for folder in walk(root, lambda path, error: None):
        for name in folder.files:
            path = root / folder.path / name
            if ending_of(path) in VOLUMES or name == INDEX:
                continue
            if ending_of(path) not in OTHERS and is_dicom(path):
                yield path
            elif others is not None:
                others.append(path.relative_to(root).as_posix())


def _read_header(path: Path) -> Slice | UserError:
    try:
        return read_slice(path)
    except UserError as error:
        return error


class _LeftOut:
    """The files that are no slices of a volume, by kind."""

    def __init__(self, root: Path) -> None:
        self.root, self.files, self.reasons = root, defaultdict[str, list[str]](list), dict[str, str]()

    def add(self, kind: str, paths: Collection[Path], reason: str = "") -> None:
        self.files[kind] += [path.relative_to(self.root).as_posix() for path in paths]
        self.reasons.setdefault(kind, reason)

    def report(self, total: int) -> None:
        for kind, names in self.files.items():
            reason = f"; the first: {self.reasons[kind]}" if self.reasons[kind] else ""
            note(f"{self.root}: left out: {len(names)} of {total} DICOM files, {kind} ({first_names(names)}){reason}")


def _without_strays(slices: list[Slice], left_out: _LeftOut) -> list[Slice]:
    """Return the slices of a series without copies and without single images in another plane, such as a localizer."""
    unique = {(one.instance or str(one.path)): one for one in reversed(slices)}
    copies = [one.path for one in slices if unique[one.instance or str(one.path)] is not one]
    if copies:
        left_out.add("copies of a slice", copies)
    planes = defaultdict[object, list[Slice]](list)
    for one in unique.values():
        planes[one.grid].append(one)
    single = [plane[0].path for plane in planes.values() if len(plane) == 1]
    if single:
        left_out.add("single slices", single)
    return [one for plane in planes.values() if len(plane) > 1 for one in plane]
