"""Reading and resampling of scans, and headers that must not be acted on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.readers.volumes import load_resampled, read_header
from tests.scans import write_scan
from utils.errors import UserError

VOLUME = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


def test_axes_and_values_without_resampling(tmp_path):
    volume = load_resampled(write_scan(tmp_path / "a.mhd", VOLUME))
    assert volume.dtype == np.int16 and np.array_equal(volume, VOLUME.transpose(2, 1, 0))


def test_resampling_is_linear_and_sizes_round_half_up(tmp_path):
    path = write_scan(tmp_path / "a.mhd", VOLUME, spacing=(2.0, 0.5, 1.5), origin=(-7.0, 3.0, 2.0))
    header = read_header(path)
    assert header.size == (6, 5, 4) and header.size_resampled == (12, 3, 6)
    volume = load_resampled(path)
    assert volume.shape == (12, 3, 6)
    assert volume[1, 0, 0] == round((VOLUME[0, 0, 0] + VOLUME[0, 0, 1]) / 2)
    assert volume[0, 1, 0] == VOLUME[0, 2, 0] and volume[0, 0, 3] == VOLUME[2, 0, 0]
    # Half a voxel beyond the last centre is still the last voxel, what is further out is 0 HU.
    assert (volume[11, 1:] == 0).all() and volume[10, 0, 0] == VOLUME[0, 0, 5]


def test_direction_is_kept(tmp_path):
    path = write_scan(tmp_path / "a.mhd", VOLUME, TransformMatrix="-1 0 0 0 -1 0 0 0 1")
    assert np.array_equal(load_resampled(path), VOLUME.transpose(2, 1, 0))


WRONG = {
    "no dimensions": ({"NDims": None}, "NDims"),
    "two dimensions": ({"NDims": "2"}, "NDims"),
    "NaN spacing": ({"ElementSpacing": "nan 1 1"}, "ElementSpacing"),
    "zero spacing": ({"ElementSpacing": "1 0 1"}, "spacing above 0"),
    "negative spacing": ({"ElementSpacing": "1 1 -1"}, "spacing above 0"),
    "huge spacing": ({"ElementSpacing": "1 1 1e9"}, "spacing above 0"),
    "spacing missing": ({"ElementSpacing": None}, "ElementSize"),
    "two spacings": ({"ElementSpacing": "1 1"}, "three numbers"),
    "zero size": ({"DimSize": "0 5 4"}, "DimSize"),
    "absurd size": ({"DimSize": "99999999 5 4"}, "DimSize"),
    "size of words": ({"DimSize": "six 5 4"}, "DimSize"),
    "more than fits": ({"DimSize": "9999 9999 9999"}, "voxels at 1 mm"),
    "size larger than the data": ({"DimSize": "6 5 5"}, "cut short"),
    "unknown type": ({"ElementType": "MET_OTHER"}, "ElementType"),
    "path out of the folder": ({"ElementDataFile": "../a.raw"}, "in its own folder"),
    "absolute path": ({"ElementDataFile": "/etc/passwd"}, "in its own folder"),
    "pattern of files": ({"ElementDataFile": "a%d.raw 1 4 1"}, "in its own folder"),
    "list of files": ({"ElementDataFile": "LIST"}, "in its own folder"),
    "no data": ({"ElementDataFile": "b.raw"}, "no such file"),
    "no data file named": ({"ElementDataFile": None}, "ElementDataFile"),
    "two values a voxel": ({"ElementNumberOfChannels": "2", "DimSize": "3 5 4"}, "one value a voxel"),
}


@pytest.mark.parametrize("fields, message", WRONG.values(), ids=WRONG)
def test_wrong_headers_are_one_line(tmp_path, fields, message):
    path = write_scan(tmp_path / "a.mhd", VOLUME, **fields)
    with pytest.raises(UserError, match=message) as caught:
        load_resampled(path)
    assert "\n" not in str(caught.value) and "a.mhd" in str(caught.value)


def test_missing_short_and_repeated(tmp_path):
    with pytest.raises(UserError, match="no file"):
        read_header(tmp_path / "none.mhd")
    path = write_scan(tmp_path / "a.mhd", VOLUME)
    raw = tmp_path / "a.raw"
    raw.write_bytes(raw.read_bytes()[:-1])
    with pytest.raises(UserError, match="expected 240 bytes of voxels in a.raw, it has 239: cut short"):
        load_resampled(path)
    path = write_scan(tmp_path / "a.mhd", VOLUME)
    path.write_text("DimSize = 1 1 1\n" + path.read_text())
    with pytest.raises(UserError, match="DimSize once"):
        read_header(path)
    (tmp_path / "folder.mhd").mkdir()
    with pytest.raises(UserError, match="cannot read"):
        read_header(tmp_path / "folder.mhd")


LINES = st.one_of(
    st.text(max_size=40),
    st.builds(
        "{} = {}".format,
        st.sampled_from(["NDims", "DimSize", "ElementSpacing", "ElementType", "HeaderSize", "CompressedData"]),
        st.one_of(st.text(max_size=20), st.lists(st.floats(), max_size=4).map(lambda v: " ".join(map(str, v)))),
    ),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(lines=st.lists(LINES, max_size=8), end=st.sampled_from(["a.raw", "LOCAL", "../a.raw", "", "LIST"]))
def test_any_header_is_read_or_refused(tmp_path_factory, lines, end):
    path = tmp_path_factory.getbasetemp() / "fuzz.mhd"
    path.write_text("\n".join([*lines, f"ElementDataFile = {end}"]), encoding="utf-8", errors="replace")
    try:
        header = read_header(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert min(header.size_resampled) >= 1
