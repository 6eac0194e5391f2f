"""Damaged files of every kind that is read: content or one line, never anything else. Budgets are fixed.

Lists, scan headers and the way to cut a checkpoint short have such tests beside their own.
"""

import argparse
import contextlib
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.catalog.crop_manifest import read_record
from data.catalog.labels import read_chexpert_labels, read_listed_labels
from data.datasets.luna import CropFile, read_crop
from data.readers.images import read_grey
from data.readers.masks import read_mask_image
from data.readers.tables import read_table
from data.readers.volumes import load_resampled, read_volume
from engine.recorder import Recorder
from engine.run_state import RunState
from models.pretrained import read_weights
from utils.checkpoints import read_checkpoint
from utils.errors import UserError
from utils.options import parse_options

BUDGET = settings(max_examples=150, deadline=None, derandomize=True)
DAMAGE = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=6)), max_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def damaged(content, damage, kept):
    """Content with bytes replaced here and there, cut to a share of its length."""
    content = bytearray(content)
    for place, new in damage:
        start = int(place * len(content))
        content[start : start + len(new)] = new
    return bytes(content[: round(kept * len(content))])


def read_or_one_line(read, path):
    """What is read, or None where it is refused by a line that names the file."""
    try:
        return read(path)
    except UserError as error:
        assert "\n" not in str(error) and str(path.parent) in str(error)
        return None


def content_of(write):
    file = io.BytesIO()
    write(file)
    return file.getvalue()


GREY = Image.fromarray(np.arange(99, dtype=np.uint8).reshape(9, 11))
PICTURES = {
    name: content_of(lambda file, image=image, kind=kind: image.save(file, kind))
    for name, image, kind in [
        ("grey", GREY, "PNG"), ("palette", GREY.convert("P"), "PNG"), ("rgba", GREY.convert("RGBA"), "PNG"),
        ("16 bit", Image.fromarray(np.arange(99, dtype=np.uint16).reshape(9, 11)), "PNG"), ("jpeg", GREY, "JPEG"),
        ("tiff", GREY, "TIFF"), ("deep tiff", Image.fromarray(np.arange(99, dtype=np.uint16).reshape(9, 11)), "TIFF"),
    ]
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
@settings(BUDGET, max_examples=60)
@given(damage=DAMAGE, kept=st.floats(0, 1))
def test_pictures(folder, name, damage, kept):
    path = folder / "x.png"
    path.write_bytes(damaged(PICTURES[name], damage, kept))
    grey = read_or_one_line(read_grey, path)
    assert grey is None or (grey.dtype == np.uint8 and grey.ndim == 2)


@pytest.mark.parametrize("read", [read_grey, read_mask_image])
@BUDGET
@given(damage=DAMAGE, kept=st.one_of(st.just(1.0), st.floats(0, 1)), more=st.binary(max_size=3))
def test_png_is_itself_or_nothing(folder, read, damage, kept, more):
    """Every byte of it is under a check sum; what is behind its end is nobody's."""
    path = folder / "y.png"
    path.write_bytes(damaged(PICTURES["grey"], damage, kept) + more)
    pixels = read_or_one_line(read, path)
    assert pixels is None or np.array_equal(pixels, np.arange(99).reshape(9, 11))


HU = np.random.default_rng(0).integers(-1000, 400, (4, 5, 6)).astype(np.int16)
# By name: whether it is deflated, and which of its files is damaged.
SCANS = {
    "p.nii": (False, "p.nii"), "d.nii.gz": (True, "d.nii.gz"), "p.mha": (False, "p.mha"), "d.mha": (True, "d.mha"),
    "p.nrrd": (False, "p.nrrd"), "d.nrrd": (True, "d.nrrd"), "p.mhd": (False, "p.raw"), "d.mhd": (True, "d.zraw"),
}  # fmt: skip
ENDS_OF_HEADERS = {".mha": b"LOCAL\n", ".nrrd": b"\n\n"}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Scans of every kind, and the content of those of their files that are damaged."""
    root = tmp_path_factory.mktemp("scans")
    for name, (deflated, _) in SCANS.items():
        image = sitk.GetImageFromArray(HU)
        image.SetSpacing((0.7, 0.8, 2.5))
        sitk.WriteImage(image, str(root / name), deflated)
    return root, {name: (root / file).read_bytes() for name, (_, file) in SCANS.items()}


def voxels_of(path):
    values, _ = read_volume(path)
    load_resampled(path)
    return values


@pytest.mark.parametrize("name", SCANS)
@settings(BUDGET, max_examples=80)
@given(damage=DAMAGE, kept=st.one_of(st.just(1.0), st.floats(0, 1)), more=st.binary(max_size=3), header=st.booleans())
def test_scans_are_themselves_or_nothing(scans, name, damage, kept, more, header):
    """What is deflated has check sums; of the rest, the length is known. A header in plain text has neither."""
    root, contents = scans
    deflated, file = SCANS[name]
    content, mark = contents[name], ENDS_OF_HEADERS.get(Path(name).suffix)
    start = content.index(mark) + len(mark) if mark and not header else 0
    new = content[:start] + damaged(content[start:], damage, kept) + more
    (root / file).write_bytes(new)
    values = read_or_one_line(voxels_of, root / name)
    if deflated and not (mark and header):
        assert values is None or np.array_equal(values, HU.transpose(2, 1, 0))
    if not damage and len(new) != len(content):
        assert values is None
    assert values is None or values.ndim == 3


@BUDGET
@given(damage=DAMAGE, kept=st.floats(0.5, 1), dtype=st.sampled_from(["float32", "float16", "float64"]))
def test_crops(folder, damage, kept, dtype):
    crop = CropFile("x", "x_0", folder / "x_global_0.npy", folder / "x_local_0.npy")
    whole = content_of(lambda file: np.save(file, np.full((2, 8, 8, 8), 0.5, dtype=dtype)))
    crop.pair.write_bytes(damaged(whole, damage, kept))
    np.save(crop.local, np.full((6, 8, 8, 8), 0.5, dtype=dtype))
    sample = read_or_one_line(lambda path: read_crop(crop), crop.pair)
    assert sample is None or all(bool(x.isfinite().all()) and x.dtype == torch.float32 for x in sample)


STATE = {"position": [1, 2], "fixed": {"lr": 0.1}, "model": {"w": torch.arange(6.0)}, "opt": argparse.Namespace(b=3)}
SAVED = {
    "zip": content_of(lambda file: torch.save(STATE, file)),
    "legacy": content_of(lambda file: torch.save(STATE, file, _use_new_zipfile_serialization=False)),
}


@pytest.mark.parametrize("kind", SAVED)
@BUDGET
@given(damage=DAMAGE, kept=st.sampled_from([1.0, 1.0, 0.9, 0.5]))
def test_checkpoints_weights_and_states(folder, kind, damage, kept):
    path = folder / "state" / "last.pt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(damaged(SAVED[kind], damage, kept))
    content = read_or_one_line(read_checkpoint, path)
    assert content is None or isinstance(content, dict)
    read_or_one_line(read_weights, path)
    run_state = RunState(path.parent, fixed={}, save_minutes=0)
    read_or_one_line(lambda path: run_state.find("auto"), path)


@BUDGET
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode())))
def test_tables_records_and_labels(folder, content):
    root = folder / "tables"
    root.mkdir(exist_ok=True)
    path = root / "train.csv"
    for head in (b"", b"Path,No Finding\n", b"seriesuid,coordX,coordY,coordZ,class\n"):
        path.write_bytes(head + content)
        rows = read_or_one_line(lambda path: read_table(path, ["seriesuid", "class"]), path)
        assert rows is None or all(row["seriesuid"] and row["class"] for row in rows)
        read_or_one_line(lambda path: read_chexpert_labels(path.parent, uncertain="zeros"), path)
        read_or_one_line(read_listed_labels, path)
        record = read_record(path)
        assert record is None or isinstance(record, dict)


@BUDGET
@given(damage=DAMAGE, kept=st.floats(0, 1))
def test_lines_of_metrics(folder, damage, kept):
    output = folder / "run"
    output.mkdir(exist_ok=True)
    lines = b"".join(json.dumps({"epoch": i, "total": 0.5}).encode() + b"\n" for i in range(5))
    (output / "metrics.jsonl").write_bytes(damaged(lines, damage, kept))
    assert len(Recorder(output, about={}).metric_lines()) <= 5 + 4 * 6


WORDS = st.sampled_from([
    "--data", "--output", "--b", "--d", "--n", "--epochs", "--lr", "--ratio", "--gpus", "--amp", "--phase", "finetune",
    "--weight", "--crop", "--cache", "0", "-1", "3", "nan", "inf", "1e999", "0,1", "luna", "chest", "", "--", "=", "x",
])  # fmt: skip


@BUDGET
@given(words=st.lists(st.one_of(WORDS, st.text(max_size=5)), max_size=8))
def test_options(words):
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        try:
            parse_options(["--data", "D", "--output", "O", *words])
        except SystemExit as end:
            assert end.code in (0, 2)
            assert end.code == 0 or said.getvalue().count("error:") == 1


class Hostile:
    """Runs code when it is unpickled."""

    def __init__(self, flag):
        self.flag = flag

    def __reduce__(self):
        return (open, (str(self.flag), "w"))


def test_no_file_runs_code(tmp_path):
    """Every door that a downloaded file can come through."""
    flag, hostile = tmp_path / "ran", Hostile(tmp_path / "ran")
    files = {
        "pickle.pt": pickle.dumps({"state_dict": hostile}),
        "zip.pt": content_of(lambda file: torch.save({"state_dict": hostile, "position": [0, 0]}, file)),
        "object.npy": content_of(lambda file: np.save(file, np.array([hostile], dtype=object), allow_pickle=True)),
        "plain.npy": pickle.dumps(hostile),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in ("pickle.pt", "zip.pt"):
        for read in (read_checkpoint, read_weights):
            with pytest.raises(UserError, match=name):
                read(tmp_path / name)
        with pytest.raises(UserError):
            RunState(tmp_path / "state", fixed={}, save_minutes=0).find(str(tmp_path / name))
    for name in ("object.npy", "plain.npy"):
        with pytest.raises(UserError, match=name):
            read_crop(CropFile("x", "x_0", tmp_path / name, tmp_path / name))
    assert not flag.exists()
    pickle.loads(files["pickle.pt"])["state_dict"].close()
    assert flag.exists(), "the files are hostile"
