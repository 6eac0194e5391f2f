"""The table of nodule candidates, the list and the scans: what has no match is reported or refused."""

from itertools import chain

import pytest

from data.catalog.list_folders import ListFolders
from data.datasets.candidates import open_candidates
from utils.errors import UserError

SCANS = [f"1.3.{i}" for i in range(8)]


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write_table(root, scans):
    rows = [f"{scan},{x},2,3,{int(x == 1)}" for scan in scans for x in (1, 4)]
    (root / "candidates_V2.csv").write_text("\n".join(["seriesuid,coordX,coordY,coordZ,class", *rows]) + "\n")


def opened(root, lists, **kwargs):
    return open_candidates(root=root, lists=ListFolders.at(lists), **{"ratio": 0, "seed": 1} | kwargs)


def scans_of(splits):
    return [sorted(set(split.patients)) for split in splits[:3]]


def test_scans_without_candidates_and_candidates_without_a_scan_are_told(tmp_path, capsys):
    root = touch(tmp_path / "luna", *(f"subset{i}/{scan}.mhd" for i, scan in enumerate(SCANS)))
    write_table(root, [*SCANS[2:], "x", "y"])
    train, valid, test = scans_of(opened(root, tmp_path / "lists"))
    assert sorted(train + valid) == SCANS[2:7] and test == SCANS[7:]
    error = capsys.readouterr().err
    assert (
        f"{root}/candidates_V2.csv: 6 of 8 scans with candidates in --data, 2 not: 4 candidates left out (x, y); "
        f"6 of 8 scans of --data with candidates, 2 without: left out ({', '.join(SCANS[:2])})\n"
    ) in error
    assert f"{tmp_path}/lists/luna_train.txt: 7 of 7 names in --data; 7 of 7 scans of --data in a list\n" in error
    write_table(root, ["x", "y"])
    with pytest.raises(UserError, match=r"none of its 2 scans is there \(x, y; of --data: 1.3.0, 1.3.1, "):
        opened(root, tmp_path / "lists")


def test_scans_of_any_format_in_a_folder_of_ones_own(tmp_path):
    endings = (".nii.gz", ".MHD", ".mha", ".nrrd", ".nii")
    root = touch(tmp_path / "own", *(f"{scan}{endings[i % 5]}" for i, scan in enumerate(SCANS)))
    write_table(root, SCANS)
    splits = opened(root, tmp_path / "lists")
    assert sorted(chain(*scans_of(splits))) == SCANS and splits.test_source == "a fifth of the scans, held out"


def test_listed_scans_that_are_missing_are_left_out_up_to_a_share(tmp_path):
    root = touch(tmp_path / "luna", *(f"subset0/{scan}.mhd" for scan in SCANS))
    write_table(root, SCANS)
    touch(tmp_path / "lists", "luna_train.txt").joinpath("luna_train.txt").write_text("\n".join([*SCANS, "x"]))
    with pytest.raises(UserError, match=r"luna_train.txt: 1 of its 9 names are not in .*\(x\)"):
        opened(root, tmp_path / "lists")
    assert sorted(chain(*scans_of(opened(root, tmp_path / "lists", max_bad=0.12)))) == SCANS


def test_a_point_that_is_a_nodule_and_none_is_refused(tmp_path):
    root = touch(tmp_path / "luna", *(f"subset0/{scan}.mhd" for scan in SCANS))
    write_table(root, SCANS)
    with open(root / "candidates_V2.csv", "a") as file:
        file.write(f"{SCANS[0]},4,2,3,0\n")
    opened(root, tmp_path / "lists")
    with open(root / "candidates_V2.csv", "a") as file:
        file.write(f"{SCANS[3]},4,2,3,1\n")
    with pytest.raises(UserError, match=rf"listed twice with different classes \({SCANS[3]} 4 2 3\)"):
        opened(root, tmp_path / "lists")
