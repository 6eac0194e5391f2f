"""Prepared cases know which files they were made of, and report when they are prepared again."""

import os

import numpy as np
import pytest
from PIL import Image

from data.datasets import case_cache
from data.datasets.case_cache import CaseCache
from data.datasets.cases import Case, ReadSpec
from tests.scans import write_scan
from utils.errors import UserError

READING = ReadSpec(2, (0, 255))


@pytest.fixture
def cases(tmp_path):
    made = []
    for i in range(3):
        images, mask = tmp_path / f"{i}.png", tmp_path / f"{i}_mask.png"
        Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5) + 10 * i).save(images)
        Image.fromarray(np.eye(4, 5, dtype=np.uint8) * 255).save(mask)
        made.append(Case(f"site/{'n' * 240}{i}" if i == 2 else f"site/c_{i}", str(i), (images,), mask))
    return made


def fill(folder, cases, reading=READING):
    cache = CaseCache(folder, reading)
    cache.note_outdated(cases)
    return [cache(case).image for case in cases]


def test_cases_are_prepared_once_and_anew_when_their_files_change(tmp_path, cases, capsys):
    folder = tmp_path / "cache"
    first = fill(folder, cases)
    files = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    fill(folder, cases)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == files and len(files) == 12
    assert "prepared" not in capsys.readouterr().err
    Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5)[::-1].copy()).save(cases[1].images[0])
    os.utime(cases[2].mask, ns=(1, 1))
    second = fill(folder, cases)
    assert [np.array_equal(a, b) for a, b in zip(first, second, strict=True)] == [True, False, True]
    error = capsys.readouterr().err
    assert "--cache: 2 of 3 cases in" in error and "are prepared again (site/c_1, site/nnn" in error
    assert len(list(folder.iterdir())) == 12 + 8


@pytest.mark.parametrize("what", ["settings", "version"])
def test_other_settings_and_versions_are_prepared_anew(tmp_path, cases, capsys, monkeypatch, what):
    fill(tmp_path / "cache", cases[:2])
    if what == "version":
        monkeypatch.setattr(case_cache, "VERSION", case_cache.VERSION + 1)
    fill(tmp_path / "cache", cases, READING if what == "version" else READING._replace(max_side=3))
    assert "--cache: 2 of 3 cases in" in capsys.readouterr().err
    fill(tmp_path / "cache", cases, READING if what == "version" else READING._replace(max_side=3))
    assert capsys.readouterr().err == ""


def test_a_case_whose_file_is_gone_is_not_counted(tmp_path, cases, capsys):
    fill(tmp_path / "cache", cases)
    cases[0].mask.unlink()
    CaseCache(tmp_path / "cache", READING).note_outdated(cases)
    assert capsys.readouterr().err == ""


def test_a_scan_whose_voxels_lie_in_another_file_is_prepared_anew_when_that_changes(tmp_path, capsys):
    values = np.zeros((4, 5, 6), np.int16)
    case = Case("c", "c", (write_scan(tmp_path / "i.mhd", values),), write_scan(tmp_path / "m.mhd", values))
    reading = ReadSpec(3, (0,))
    fill(tmp_path / "cache", [case], reading)
    header = case.images[0].stat()
    (tmp_path / "i.raw").write_bytes((values + 7).tobytes())
    os.utime(tmp_path / "i.raw", ns=(1, 1))
    assert case.images[0].stat() == header
    (image,) = fill(tmp_path / "cache", [case], reading)
    assert (image == 7).all() and "1 of 1 cases" in capsys.readouterr().err


def test_a_damaged_prepared_case_is_one_line(tmp_path, cases):
    fill(tmp_path / "cache", cases)
    (file, *_) = sorted((tmp_path / "cache").glob("*_image.npy"))
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(UserError, match="of a prepared case of --cache .remove it., it is damaged"):
        fill(tmp_path / "cache", cases)


def test_a_folder_that_cannot_be_made_is_one_line_at_once_and_not_a_broken_case(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^--cache: cannot make .*file/cache: Not a directory$"):
        CaseCache(tmp_path / "file" / "cache", READING)
