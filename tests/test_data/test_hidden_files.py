"""Hidden files, such as macOS leaves beside every file it copies, are no samples in any folder."""

import shutil
from pathlib import Path

import pytest

from data.catalog.channel_files import find_cases
from data.catalog.chest import index_chest
from data.catalog.chexpert import index_chexpert
from data.catalog.crop_manifest import read_manifest
from data.catalog.file_index import require_folder
from data.datasets.brats import BRATS_SUFFIXES, find_brats
from data.datasets.candidates import find_ct
from data.datasets.folder import find_folder
from data.datasets.lits import find_lits
from data.datasets.luna import find_crop_files
from data.datasets.nnunet import find_nnunet
from luna_preprocess import choose_scans
from utils.errors import UserError

BRATS = [f"HGG/ID/ID_{kind}.nii.gz" for kind in ("t1", "t2", "flair", "t1ce", "seg")]
WALKS = {
    "NIH": (["images/1_0.png", "images/1_1.jpg"], lambda root: list(index_chest(root).names)),
    "NIH as unpacked": (
        ["images_001/images/1_0.png", "images_002/images/2_0.png"], lambda root: list(index_chest(root).names)
    ),
    "CheXpert": (["train/p1/s1/v.jpg", "train/p2/s1/v.jpg"], lambda root: list(index_chexpert(root).names)),
    "crops": (["subset0/x_global_0.npy", "subset0/x_local_0.npy"], lambda root: find_crop_files(root, "train")),
    "scans": (["subset0/x.mhd", "subset7/y.mhd"], find_ct),
    "scans to be cut": (
        ["subset0/x.mhd", "subset7/y.mhd"], lambda root: choose_scans(root, Path("crops"), None, verbose=False)
    ),
    "what was cut": (
        ["subset0/x_global_0.npy", "subset0/x_local_0.npy"], lambda root: read_manifest(root, {})["bytes"]
    ),
    "BraTS": (BRATS, find_brats),
    "LiTS": (["train/CT/volume0.nii", "train/seg/segmentation0.nii"], find_lits),
    "nnU-Net": (
        ["imagesTr/x_0000.nii.gz", "imagesTr/x_0001.nii.gz", "labelsTr/x.nii.gz", "dataset.json"],
        lambda root: found_by_nnunet(root).cases,
    ),
    "channels": (BRATS, lambda root: find_cases(root, BRATS_SUFFIXES, verbose=True)),
    "images and masks": (
        ["images/x.png", "images/y.jpg", "masks/x.png", "masks/y.png"],
        lambda root: find_folder(root, 2, classes=1).cases,
    ),
}  # fmt: skip


def found_by_nnunet(root):
    (root / "dataset.json").write_text('{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"b": 0, "t": 1}}')
    return find_nnunet(root, 3)


def hide_among(root):
    """A hidden file beside every file, and a hidden copy beside every folder."""
    for path in sorted(root.rglob("*")):
        if path.is_dir():
            shutil.copytree(path, path.with_name(f".{path.name}"))
        else:
            path.with_name(f"._{path.name}").write_bytes(b"fork")


@pytest.mark.parametrize(("files", "walk"), WALKS.values(), ids=WALKS)
def test_hidden_files_are_no_samples(tmp_path, files, walk):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = walk(tmp_path)
    hide_among(tmp_path)
    assert walk(tmp_path) == found


def test_a_folder_of_hidden_files_is_empty(tmp_path):
    (tmp_path / ".DS_Store").touch()
    with pytest.raises(UserError, match="is empty"):
        require_folder(tmp_path)
    (tmp_path / "images").mkdir()
    assert require_folder(tmp_path) == tmp_path
