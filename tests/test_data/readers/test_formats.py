"""Volumes in every format: the same voxels of each, and damaged files refused at every door."""

import gzip
import os
import struct
import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from data.crop_pairs import load_scan
from data.pairs import CropSettings
from data.readers import itk, stored
from data.readers.cubes import load_cube
from data.readers.file_names import SCANS
from data.readers.volumes import load_resampled, read_header, read_volume
from data.scan_records import Scan
from tests.scans import write_scan
from utils.errors import UserError

SPACING, ORIGIN = (0.7, 0.65, 1.25), (-19.3, 7.21, -302.5)
# Lopsided, and as lively as noise, so that no axis and no voxel can be taken for another.
HU = np.random.default_rng(0).integers(-1000, 400, (11, 15, 20)).astype(np.int16)
PLAIN, DEFLATED = ("mhd", "mha", "nii", "nrrd"), ("mhd", "mha", "nii.gz", "nrrd")


def image(values=HU, code="LPS"):
    made = sitk.GetImageFromArray(values)
    made.SetSpacing(SPACING)
    made.SetOrigin(ORIGIN)
    return made if code == "LPS" else sitk.DICOMOrient(made, code)


def write(folder, ending, *, deflated, values=HU, code="LPS"):
    path = folder / f"a.{ending}"
    sitk.WriteImage(image(values, code), str(path), deflated)
    return path


def voxel_file(path):
    """The file to damage."""
    return next((f for e in (".raw", ".zraw") if path.suffix == ".mhd" and (f := path.with_suffix(e)).exists()), path)


def header_length(content, path):
    """Bytes before the voxels of a file that has both."""
    marks = {".mha": b"LOCAL\n", ".nrrd": b"\n\n"}
    mark = marks.get(path.suffix)
    return content.index(mark) + len(mark) if mark else 0


KINDS = [*((ending, False) for ending in PLAIN), *((ending, True) for ending in DEFLATED)]
IDS = [f"{ending} {'deflated' if deflated else 'plain'}" for ending, deflated in KINDS]
EVERY_KIND = pytest.mark.parametrize("ending, deflated", KINDS, ids=IDS)


def doors(path):
    """All ways in which a volume's voxels come into the program."""
    return {
        "header": lambda: read_header(path),
        "pre-training": lambda: load_resampled(path),
        "fine-tuning": lambda: read_volume(path),
        "candidates": lambda: load_cube(path, ORIGIN, (4, 4, 4), outside=-1000),
    }


def assert_refused(path, message="", but=()):
    for door, read in doors(path).items():
        if door not in but:
            with pytest.raises(UserError, match=message) as caught:
                read()
            assert "\n" not in str(caught.value) and path.name in str(caught.value), door


@EVERY_KIND
def test_every_format_gives_the_same_voxels(tmp_path, ending, deflated):
    expected = load_resampled(write_scan(tmp_path / "plain.mhd", HU, spacing=SPACING, origin=ORIGIN))
    path = write(tmp_path, ending, deflated=deflated)
    assert np.array_equal(load_resampled(path), expected) and read_header(path).size_resampled == expected.shape
    values, grid = read_volume(path)
    assert np.array_equal(values, HU.transpose(2, 1, 0)) and values.dtype == HU.dtype
    assert grid.spacing == SPACING and grid.origin == ORIGIN


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "mha"])
@pytest.mark.parametrize("code", ["RAS", "LPI", "ASR", "PIL", "SAL"])
def test_axes_are_brought_to_those_of_luna16(tmp_path, ending, code):
    expected = load_resampled(write_scan(tmp_path / "plain.mhd", HU, spacing=SPACING, origin=ORIGIN))
    path = write(tmp_path, ending, deflated=True, code=code)
    turned = load_resampled(path)
    stored_size = read_volume(path)[0].shape
    assert stored_size == image(code=code).GetSize(), "fine-tuning keeps the axes of the file"
    if ending == "mha" and set(code[0]) < set("LR"):
        # As published, flips stay in a MetaImage.
        expected = load_resampled(write(tmp_path, "mhd", deflated=False, code=code))
        assert np.array_equal(turned, expected) and stored_size == (20, 15, 11)
        return
    assert turned.shape == expected.shape == read_header(path).size_resampled
    # An origin at the other end rounds a position differently now and then.
    difference = np.abs(turned.astype(int) - expected)
    assert difference.max() <= 1 and np.count_nonzero(difference) < 0.01 * difference.size
    cube = load_cube(path, np.add(ORIGIN, (5, 4, 6)), (5, 3, 7), outside=-1000)
    assert np.abs(cube.astype(int) - expected[3:8, 3:6, 3:10]).max() <= 1


def rotated(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return f"1 0 0 0 {c:.9f} {s:.9f} 0 {-s:.9f} {c:.9f}"


def test_oblique_axes_stay_and_slanting_ones_are_refused(tmp_path):
    tilted = write_scan(tmp_path / "t.mhd", HU, TransformMatrix=rotated(18.5))
    assert np.array_equal(load_resampled(tilted), HU.transpose(2, 1, 0))
    sitk.WriteImage(sitk.ReadImage(str(tilted)), str(tmp_path / "t.nii.gz"))
    assert np.array_equal(load_resampled(tmp_path / "t.nii.gz"), HU.transpose(2, 1, 0))
    # Rounded to three digits.
    rough = " ".join(f"{float(word):.3f}" for word in rotated(18.5).split())
    assert load_resampled(write_scan(tmp_path / "r.mhd", HU, TransformMatrix=rough)).shape == (20, 15, 11)
    for matrix in ("1 0 0 0 1 0 0 0.3 1", "1 0 0 0 1 0 0 0 0.9", "0 0 0 0 1 0 0 0 1", "1 0 0 1 0 0 0 0 1"):
        assert_refused(write_scan(tmp_path / "s.mhd", HU, TransformMatrix=matrix), "s.mhd: expected")


@EVERY_KIND
@pytest.mark.parametrize("damage", ["cut by a byte", "half", "a byte more"])
def test_files_of_another_length_are_refused(tmp_path, ending, deflated, damage):
    path = write(tmp_path, ending, deflated=deflated)
    file = voxel_file(path)
    content = file.read_bytes()
    length = {"cut by a byte": len(content) - 1, "half": len(content) // 2, "a byte more": len(content)}[damage]
    file.write_bytes(content[:length] + b"\0" * (damage == "a byte more"))
    assert_refused(path, "cut short|too long|damaged")


@pytest.mark.parametrize("ending", DEFLATED)
def test_damage_that_the_check_sum_alone_shows_is_refused(tmp_path, ending):
    path = write(tmp_path, ending, deflated=True)
    assert all(read() is not None for read in doors(path).values())
    file = voxel_file(path)
    content = bytearray(file.read_bytes())
    for place in (len(content) - 1, len(content) // 2, len(content) * 2 // 3):
        broken = bytearray(content)
        broken[place] ^= 0x10
        file.write_bytes(broken)
        os.utime(file, ns=(place, place))
        assert_refused(path, "damaged|too long|cut short|cannot be read")


@pytest.mark.parametrize("ending", DEFLATED)
def test_streams_of_more_or_fewer_voxels_are_refused(tmp_path, ending):
    """Whole streams with right check sums, but not of the size that the header claims."""
    path = write(tmp_path, ending, deflated=True)
    file = voxel_file(path)
    content = file.read_bytes()
    start = header_length(content, file)
    inflated = zlib.decompressobj(47).decompress(content[start:])
    deflate = gzip.compress if content[start:].startswith(b"\x1f\x8b") else zlib.compress
    for other in (inflated[:-2], inflated + b"\0\0", b""):
        file.write_bytes(content[:start] + deflate(other))
        assert_refused(path, "cut short|too long|damaged|NIfTI-1 header")


def test_a_stream_of_far_too_much_is_not_inflated_whole(tmp_path, monkeypatch):
    path = write(tmp_path, "nii.gz", deflated=True)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(10**8)))
    sizes, inflate = [], zlib.decompressobj

    class Watched:
        def __init__(self, bits):
            self.one = inflate(bits)

        def decompress(self, content, most):
            sizes.append(len(found := self.one.decompress(content, most)))
            return found

        def __getattr__(self, name):
            return getattr(self.one, name)

    monkeypatch.setattr(stored.zlib, "decompressobj", Watched)
    with pytest.raises(UserError, match="too long"):
        read_header(path)
    assert sum(sizes) < 3 * stored.PIECE


def test_a_gzip_of_several_parts_is_read(tmp_path):
    path = write(tmp_path, "nii.gz", deflated=True)
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:3000]) + gzip.compress(content[3000:]))
    assert np.array_equal(read_volume(path)[0], HU.transpose(2, 1, 0))


def test_a_scan_is_inflated_for_its_check_sums_once_until_it_changes(tmp_path, monkeypatch):
    path = write(tmp_path, "nii.gz", deflated=True)
    content = path.read_bytes()
    read_header(path)
    monkeypatch.setattr(stored, "PIECE", 0)  # nothing can be inflated any more
    read_header(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match="cut short"):
        read_header(path)
    path.write_bytes(content)


def nifti(values, *, order="<", slope=1.0, dimensions=(3,)):
    """A NIfTI written by hand: X Y Z of int16, voxels of 1 mm, no qform and no sform."""
    sizes = [*dimensions, *values.shape, 1, 1, 1, 1][:8]
    head = bytearray(348)
    struct.pack_into(order + "i", head, 0, 348)
    struct.pack_into(order + "8h", head, 40, *sizes)
    struct.pack_into(order + "2h", head, 70, 4, 16)
    struct.pack_into(order + "8f", head, 76, *[1.0] * 8)
    struct.pack_into(order + "3f", head, 108, 352, slope, 0.0)
    head[344:348] = b"n+1\0"
    return bytes(head) + bytes(4) + values.astype(order + "i2").tobytes(order="F")


VALUES = HU.transpose(2, 1, 0)


@pytest.mark.parametrize("settings", [{}, {"order": ">"}, {"dimensions": (4,)}, {"slope": np.nan}], ids=str)
def test_byte_orders_and_dimensions_of_nifti(tmp_path, settings):
    path = tmp_path / "a.nii"
    content = nifti(VALUES, **settings)
    path.write_bytes(content)
    assert np.array_equal(read_volume(path)[0], VALUES)
    path.write_bytes(content[:-1])
    assert_refused(path, "cut short")


def test_scaled_nifti_is_in_its_own_units(tmp_path):
    (tmp_path / "a.nii").write_bytes(nifti(VALUES, slope=0.5))
    assert np.array_equal(read_volume(tmp_path / "a.nii")[0], VALUES * 0.5)


def test_a_nifti_that_hides_behind_another_is_refused(tmp_path):
    path = write(tmp_path, "nii.gz", deflated=True)
    other = write(tmp_path, "nii", deflated=False, values=HU[::-1].copy())
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), HU[::-1]), "SimpleITK reads the other"
    assert_refused(path, r"a\.nii beside it")
    assert np.array_equal(read_volume(other)[0], HU[::-1].transpose(2, 1, 0))


HEADERS = {
    "no NIfTI": (0, b"\1\2\3\4"), "NIfTI-2": (0, struct.pack("<i", 540)),
    "pair of files": (344, b"ni1\0"), "no dimensions": (40, b"\0\0"),
    "nine dimensions": (40, b"\x09\0"), "no size": (42, b"\0\0"), "negative size": (42, b"\xff\xff"),
    "colours": (70, struct.pack("<2h", 128, 24)), "another depth": (72, b"\x20\0"),
    "no offset": (108, struct.pack("<f", np.nan)), "offset": (108, struct.pack("<f", -8)),
    "offset in the header": (108, struct.pack("<f", 0)),
    "farther": (108, struct.pack("<f", 400)), "no spacing": (80, struct.pack("<f", 0)),
    "spacing": (80, struct.pack("<f", np.nan)), "infinite spacing": (88, struct.pack("<f", np.inf)),
    "two spacings": (252, struct.pack("<2h24x12f", 0, 1, 2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2, 0)),
    "slanting axes": (252, struct.pack("<2h24x12f", 0, 1, 0.95, 0, 0, 0, 0.3, 1, 0, 0, 0, 0, 1, 0)),
}  # fmt: skip


@pytest.mark.parametrize("place, new", HEADERS.values(), ids=HEADERS)
def test_wrong_headers_of_nifti_are_one_line(tmp_path, place, new):
    content = nifti(VALUES)
    for name, pack in (("p.nii", bytes), ("d.nii.gz", gzip.compress)):
        (tmp_path / name).write_bytes(pack(content[:place] + new + content[place + len(new) :]))
        assert_refused(tmp_path / name, "expected")


@pytest.mark.parametrize("old, new, message", [
    (b"NRRD0004", b"XRRD0004", "NRRD header"), (b"encoding: raw", b"encoding: hex", "encoding of raw"),
    (b"encoding: raw", b"line skip: 1\nencoding: raw", "at once"),
    (b"encoding: raw", b"data file: /etc/passwd\nencoding: raw", "at once"),
    (b"type: short", b"type: block", "one number a voxel"), (b"sizes: 20", b"sizes: -2", "sizes of whole numbers"),
    (b"sizes: 20", b"sizes: 21", "cut short"), (b"(0.69", b"(x.69", "cannot be read|at right angles|spacing"),
])  # fmt: skip
def test_wrong_headers_of_nrrd_are_one_line(tmp_path, old, new, message):
    path = write(tmp_path, "nrrd", deflated=False)
    content = path.read_bytes()
    if old == b"(0.69":
        old = content[content.index(b"(0.") :][:5]
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    assert_refused(path, message)


def test_nrrd_with_windows_line_ends(tmp_path):
    path = write(tmp_path, "nrrd", deflated=False)
    head, _, voxels = path.read_bytes().partition(b"\n\n")
    path.write_bytes(head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + voxels)
    assert np.array_equal(read_volume(path)[0], VALUES)
    path.write_bytes(path.read_bytes()[:-1])
    assert_refused(path, "cut short")


@pytest.mark.parametrize("ending", ["mhd", "mha", "nii", "nii.gz", "nrrd"])
def test_endings_in_capitals(tmp_path, ending):
    path = write(tmp_path, ending, deflated=False)
    capitals = path.rename(tmp_path / f"A.{ending.upper()}")
    assert np.array_equal(read_volume(capitals)[0], VALUES)


@EVERY_KIND
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, monkeypatch, ending, deflated, bad):
    monkeypatch.setattr(stored, "PIECE", 999)  # no multiple of a voxel
    values = HU.astype(np.float32)
    path = write(tmp_path, ending, deflated=deflated, values=values)
    assert np.array_equal(read_volume(path)[0], VALUES)
    values[0, 1, 1] = bad
    write(tmp_path, ending, deflated=deflated, values=values)
    assert_refused(path, "not finite.* in 1 of [0-9]+ voxels", but=() if "nii" in ending else ("header",))


def test_blank_lines_comments_and_header_sizes_of_metaimage(tmp_path):
    path = write_scan(tmp_path / "a.mhd", HU)
    plain, raw = path.read_text(), path.with_suffix(".raw").read_bytes()
    for text in (
        plain.replace("NDims", "\n\n  \nNDims"), plain.replace("NDims", "Comment = a\nComment = b\nNDims"),
        plain.replace("\n", "\r\n"), plain.replace(" = ", "="), plain.replace(" = ", ": "),
        plain.replace("BinaryData = True\n", ""),
    ):  # fmt: skip
        assert text != plain
        path.write_bytes(text.encode())
        assert np.array_equal(load_resampled(path), VALUES)
    for size in ("7", "-1"):
        path.write_text(plain.replace("NDims", f"HeaderSize = {size}\nNDims"))
        path.with_suffix(".raw").write_bytes(b"1234567" + raw)
        assert np.array_equal(load_resampled(path), VALUES)
    path.write_text(plain.replace("NDims", "HeaderSize = 6\nNDims"))
    assert_refused(path, "too long")
    for wrong in ("HeaderSize = x", "HeaderSize = -2", "BinaryData = False"):
        path.write_text(plain.replace("BinaryData = True\n", "").replace("NDims", f"{wrong}\nNDims"))
        assert_refused(path, "a.mhd: expected")


@pytest.mark.parametrize("values", [HU + np.int16(1024), (HU + 1000).astype(np.float32) / 1400], ids=["offset", "0..1"])
def test_ct_that_cannot_be_in_hounsfield_units_is_refused(tmp_path, values):
    path = write(tmp_path, "nii.gz", deflated=True, values=values)
    message = "a.nii.gz: expected a CT in Hounsfield units, .* its least value is"
    with pytest.raises(UserError, match=message):
        load_resampled(path, require_hu=True)
    with pytest.raises(UserError, match=message):
        load_cube(path, ORIGIN, (4, 4, 4), outside=-1000)
    settings = CropSettings(shape=(16, 16, 16), box_scale=(0.1, 0.1), pairs=1, seed=0, dtype="float32")
    with pytest.raises(UserError, match=message):
        load_scan(Scan(path, tmp_path), settings)
    assert load_resampled(path).min() >= 0, "who does not ask for a CT gets what is there"


def test_a_cube_of_soft_tissue_in_a_scan_with_air_is_in_hounsfield_units(tmp_path):
    values = np.full_like(HU, 40)
    values[9] = -900
    path = write(tmp_path, "mhd", deflated=False, values=values)
    assert (load_cube(path, ORIGIN, (2, 2, 2), outside=40) == 40).all()
    windowed = values.clip(-160, 240)
    assert load_resampled(write(tmp_path, "mhd", deflated=False, values=windowed), require_hu=True).min() < 0


def test_missing_files_and_other_endings(tmp_path):
    assert set(itk.KINDS) == set(SCANS), "what is looked for is what can be read"
    assert_refused(tmp_path / "none.nii.gz", "there is no file")
    assert_refused(tmp_path / "none.nrrd", "there is no file")
    (tmp_path / "a.txt").write_text("no volume")
    assert_refused(tmp_path / "a.txt", "expected a volume as")
    for ending in ("nii", "nii.gz", "mha", "nrrd"):
        for content in (b"", b"\x1f\x8b", b"no volume", gzip.compress(b"no volume")):
            path = tmp_path / f"{len(ending)}.{ending}"
            path.write_bytes(content)
            assert_refused(path, "expected")
    (tmp_path / "folder.nii").mkdir()
    assert_refused(tmp_path / "folder.nii", "cannot read")
