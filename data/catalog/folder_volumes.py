"""A user's own volumes: files and DICOM series in any folders below one, and tables of their patients and labels."""

import os
from collections.abc import Sequence
from pathlib import Path

from data.catalog.any_files import find_files
from data.catalog.dicom_attributes import read_attributes
from data.catalog.file_index import FileIndex
from data.catalog.folder_xrays import TEST, make_folder_list, read_own_labels
from data.catalog.name_matching import match_list
from data.catalog.names import NameList
from data.catalog.xray_dataset import LabelRequest, LabelTable, XrayDataset
from data.readers.dicom_series import DicomSeries
from data.readers.dicom_tags import PATIENT_ID
from data.readers.volumes import Source
from utils.notes import note
from utils.world import read_world


class VolumeIndex(FileIndex):
    """Volumes, by name; a volume may have many files.

    Args:
        root: the folder that names are relative to.
        sources: name to volume.
    """

    def __init__(self, root: Path, sources: dict[str, Source]) -> None:
        super().__init__([root], [NameList.of(sorted(map(os.fsencode, sources)))])
        self.sources = sources


def index_volumes(root: Path) -> VolumeIndex:
    """Return the volumes below a folder, see :func:`find_files`; those that cannot be read are named on stderr.

    Raises:
        UserError: no such folder, no volumes in it, or two of one name.
    """
    names, sources, refused = find_files(root, 3, verbose=read_world().is_main)
    for line in refused:
        note(f"--data: left out: {line}")
    return VolumeIndex(root, dict(zip(names, sources, strict=True)))


def _read_labels(request: LabelRequest) -> LabelTable:
    assert isinstance(request.files, VolumeIndex)
    sources = request.files.sources

    def in_dicom(names: Sequence[str]) -> dict[str, str]:
        slices = {name: str(one.files[0]) for name in names if isinstance(one := sources[name], DicomSeries)}
        patients = read_attributes(request.root, list(slices.values()), PATIENT_ID)
        return {name: patients[path] for name, path in slices.items() if path in patients}

    return read_own_labels(request, in_dicom)


FOLDER_VOLUMES = XrayDataset(
    index_images=index_volumes, make_lists=make_folder_list, read_labels=_read_labels, clean=match_list, test_file=TEST
)
