"""Cases of several files: their channels in order, their names, what is missing and left out."""

import pytest

from data.catalog.channel_files import find_cases, without_suffix
from data.datasets.brats import BRATS_SUFFIXES
from utils.errors import UserError

NNUNET = (("_0000",), ("_0001",))


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def brats(folder, kinds, ending=".nii.gz"):
    return [f"{folder}/{folder.rpartition('/')[2]}{kind}{ending}" for kind in kinds]


def test_brats_of_any_year_with_and_without_masks(tmp_path, capsys):
    root = touch(
        tmp_path,
        *brats("HGG/Brats18_1", ("_t1", "_t2", "_flair", "_t1ce", "_seg")),
        *brats("BraTS20_2", ("_t1ce", "_t1", "_t2", "_flair"), ".nii"),
        *brats("BraTS-GLI-3-001", ("-t1c", "-t1n", "-t2f", "-t2w", "-seg")),
        "notes/plan.nii",
    )
    found = find_cases(root, BRATS_SUFFIXES, verbose=True)
    assert found.names == ["BraTS-GLI-3-001", "BraTS20_2", "HGG/Brats18_1"]
    suffixes = [[path.name.partition(".")[0].removeprefix(name.rpartition("/")[2]) for path in files]
                for name, files in zip(found.names, found.channels, strict=True)]  # fmt: skip
    classic = ["_t1", "_t2", "_flair", "_t1ce"]
    assert suffixes == [["-t1n", "-t2w", "-t2f", "-t1c"], classic, classic]
    assert all(path.is_file() for files in found.channels for path in files)
    error = capsys.readouterr().err
    assert "2 other volumes are left out" in error and "as masks" in error
    assert (
        "left out: 1 volumes that end in none of _t1 or -t1n, _t2 or -t2w, _flair or -t2f, _t1ce or -t1c (plan)"
        in error
    )


def test_a_channel_that_is_missing_has_the_path_of_its_place(tmp_path):
    root = touch(tmp_path, *brats("P1", ("-t1c", "-t2f")), *brats("P2", ("_t1", "_t2", "_t1ce"), ".nii"))
    found = find_cases(root, BRATS_SUFFIXES, verbose=False)
    missing = [path.relative_to(root).as_posix() for files in found.channels for path in files if not path.exists()]
    assert missing == ["P1/P1-t1n.nii.gz", "P1/P1-t2w.nii.gz", "P2/P2_flair.nii"]


def test_files_of_nnunet_are_named_by_their_case(tmp_path):
    root = touch(tmp_path, *(f"imagesTs/x_{i}_000{c}.nrrd" for i in (3, 12) for c in (1, 0)), "labelsTr/x_3.nrrd")
    assert find_cases(root, NNUNET, verbose=False).names == ["imagesTs/x_12", "imagesTs/x_3"]
    found = find_cases(root / "imagesTs", NNUNET, verbose=False)
    assert found.names == ["x_12", "x_3"]
    assert [path.name for path in found.channels[1]] == ["x_3_0000.nrrd", "x_3_0001.nrrd"]
    touch(root, "imagesTs/x_3_0001.nii")
    with pytest.raises(UserError, match=r"expected one file of a channel, got .*x_3_0001.nii and .*x_3_0001.nrrd"):
        find_cases(root, NNUNET, verbose=False)
    with pytest.raises(UserError, match="expected files of _t1 or -t1n, .* below .*, found none"):
        find_cases(root, BRATS_SUFFIXES, verbose=False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a/x_0000", "a/x"), ("x_0000.png", "x.png"), ("x_0001", "x_0001"), ("x_0000_1.png", "x_0000_1.png"),
     ("1.2.840.1", "1.2.840.1"), ("scan.dcm", "scan.dcm")],
)  # fmt: skip
def test_a_file_of_one_channel_is_named_as_its_case(name, expected):
    assert without_suffix(name, (("_0000",),)) == expected
    assert without_suffix(name, ()) == name
