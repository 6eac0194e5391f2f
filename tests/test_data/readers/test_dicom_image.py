"""X-rays in DICOM: the same pixels as a viewer shows, and files that cannot be shown refused in one line."""

import math

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from data.readers.dicom_image import read_dicom_grey
from data.readers.dicom_tags import PATIENT_ID, is_dicom, open_dicom
from data.readers.grey_levels import limits_of, to_grey
from data.readers.images import read_grey
from tests.dicom_files import dicom_bytes, ramp, rescale, window
from utils.errors import UserError

HTJ2K, JPEG_2000 = "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.90"


def save(tmp_path, *args, name="x.dcm", **kwargs):
    path = tmp_path / name
    path.write_bytes(dicom_bytes(*args, **kwargs))
    return path


def shown(value, centre, width, function="LINEAR"):
    """What PS3.3, C.11.2.1.2 and C.11.2.1.3 say a display shows of one value, 0 to 255."""
    if function == "SIGMOID":
        return 255 / (1 + math.exp(-4 * (value - centre) / width))
    c, w = (centre - 0.5, width - 1) if function == "LINEAR" else (centre, width)
    if value <= c - w / 2:
        return 0
    return 255 if value > c + w / 2 else ((value - c) / w + 0.5) * 255


def test_8_bits_are_those_of_the_same_png(tmp_path):
    pixels = ramp(30, 40, np.uint8, step=3)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    expected = read_grey(tmp_path / "x.png")
    assert np.array_equal(expected, pixels)
    for kwargs in ({}, {"extra": window(128, 256)}, {"extra": [*rescale(2, -100), *window(156, 511)]}):
        assert np.array_equal(read_grey(save(tmp_path, pixels, **kwargs)), expected), kwargs
    assert np.array_equal(read_grey(tmp_path / "x.dcm", invert=True), 255 - expected)
    small = read_grey(tmp_path / "x.png", 20)
    assert np.array_equal(read_grey(tmp_path / "x.dcm", 20), small) and small.shape == (15, 20)
    colour = np.stack([pixels, pixels // 2, 255 - pixels], axis=2)
    Image.fromarray(colour).save(tmp_path / "c.png")
    assert np.array_equal(read_grey(save(tmp_path, colour, photometric="RGB")), read_grey(tmp_path / "c.png"))


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_windows_show_what_the_standard_says(tmp_path, function, dtype):
    pixels = (ramp(step=100).astype(int) - (1500 if dtype == np.int16 else 0)).astype(dtype)
    path = save(tmp_path, pixels, extra=[*rescale(0.5, -20), *window("300\\9", "800\\9", function)])
    expected = [[round(shown(0.5 * v - 20, 300, 800, function or "LINEAR")) for v in row] for row in pixels.tolist()]
    grey = read_dicom_grey(path)
    assert np.array_equal(grey, expected) and len(np.unique(grey)) > 10
    # MONOCHROME1: the window is for values as stored, what it shows is inverted.
    path = save(tmp_path, pixels, extra=[*rescale(0.5, -20), *window(300, 800, function)], photometric="MONOCHROME1")
    assert np.array_equal(read_dicom_grey(path), 255 - np.array(expected))


def test_bits_that_are_not_stored_do_not_count(tmp_path):
    pixels = ramp(step=100)
    clean = read_dicom_grey(save(tmp_path, pixels, stored=12, extra=window(2048, 4096)))
    assert np.abs(clean - pixels * (255 / 4095)).max() <= 0.5
    dirty = pixels | np.uint16(0xA000)
    assert np.array_equal(read_dicom_grey(save(tmp_path, dirty, stored=12, extra=window(2048, 4096))), clean)
    inverted = save(tmp_path, dirty, stored=12, extra=window(2048, 4096), photometric="MONOCHROME1")
    assert np.array_equal(read_dicom_grey(inverted), 255 - clean)


def test_without_a_window_percentiles_decide_and_a_marker_does_not(tmp_path):
    pixels = np.random.default_rng(0).integers(1000, 2000, (60, 50)).astype(np.uint16)
    pixels[0, 0], pixels[1, 1] = 0, 4095
    low, high = np.percentile(pixels, (0.5, 99.5))
    expected = np.rint(((pixels - low) / (high - low) * 255).clip(0, 255))
    path = save(tmp_path, pixels, stored=12)
    assert np.array_equal(read_dicom_grey(path), expected)
    assert np.abs(read_dicom_grey(path, "minmax") - pixels * (255 / 4095)).max() <= 0.5
    # A window of width 0 is none; any other may be put aside.
    assert np.array_equal(read_dicom_grey(save(tmp_path, pixels, stored=12, extra=window(0, 0))), expected)
    path = save(tmp_path, pixels, stored=12, extra=window(1500, 100))
    assert np.array_equal(read_dicom_grey(path, "percentiles"), expected)
    assert not np.array_equal(read_dicom_grey(path), expected)
    path = save(tmp_path, pixels, stored=12, photometric="MONOCHROME1")
    assert np.abs(read_dicom_grey(path).astype(int) - (255 - expected)).max() <= 1


def test_the_same_intensities_are_for_all_kinds_of_files(tmp_path):
    pixels = np.random.default_rng(0).integers(1000, 2000, (60, 50)).astype(np.uint16)
    path = save(tmp_path, pixels, extra=window(1500, 100))
    for name in ("x.png", "x.tif"):
        Image.fromarray(pixels).save(tmp_path / name)
        for intensity in ("percentiles", "minmax"):
            assert np.array_equal(read_grey(tmp_path / name, intensity=intensity), read_grey(path, intensity=intensity))
    flat = Image.new("L", (9, 9), 7)
    flat.save(tmp_path / "flat.png")
    assert not read_grey(tmp_path / "flat.png", intensity="percentiles").any()
    flat.putpixel((3, 3), 200)
    flat.save(tmp_path / "dot.png")
    assert np.argwhere(read_grey(tmp_path / "dot.png", intensity="percentiles") == 255).tolist() == [[3, 3]]


def test_values_looked_up_are_those_computed():
    rng = np.random.default_rng(3)
    for values in (
        rng.integers(-3000, 3000, (37, 41)).astype(np.int16), rng.integers(0, 2**16, (37, 41)).astype(np.uint16),
        rng.integers(0, 256, (37, 41)).astype(np.uint8), rng.integers(-(2**31), 2**31, (37, 41)).astype(np.int32),
        rng.normal(size=(37, 41)), np.full((3, 2), 7, np.uint16),
    ):  # fmt: skip
        low, high = np.percentile(values, (0.5, 99.5))
        expected = (low, high) if high > low else (values.min(), values.max())
        assert limits_of(values, "percentiles") == pytest.approx(expected, rel=1e-12), values.dtype
        grey = np.rint(((values.astype(float) - low) * (255 / max(high - low, 1e-9))).clip(0, 255))
        assert np.array_equal(to_grey(values, low, high), grey * (high > low)), values.dtype


def test_compressed_files_are_those_that_are_not(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 30)).astype(np.uint16)
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(tmp_path / "j2k.dcm"))
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG2000")
    writer.Execute(sitk.GetImageFromArray(pixels))
    assert open_dicom(tmp_path / "j2k.dcm").syntax == JPEG_2000
    assert np.array_equal(read_dicom_grey(tmp_path / "j2k.dcm"), read_dicom_grey(save(tmp_path, pixels)))
    content = (tmp_path / "j2k.dcm").read_bytes()
    (tmp_path / "j2k.dcm").write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(UserError, match="j2k.dcm: expected a DICOM image, it is damaged"):
        read_dicom_grey(tmp_path / "j2k.dcm")


def test_files_are_known_without_their_ending(tmp_path):
    path = save(tmp_path, ramp(dtype=np.uint8, step=1), name="1.2.840.17")
    assert is_dicom(path) and np.array_equal(read_grey(path), ramp(dtype=np.uint8, step=1))
    assert open_dicom(path).text(PATIENT_ID) == "P7"
    # Files without preamble and meta information, of the standard's early years, are known by their ending.
    (tmp_path / "old.DCM").write_bytes(path.read_bytes()[path.read_bytes().index(b"\x08\x00\x16\x00") :])
    assert np.array_equal(read_grey(tmp_path / "old.DCM"), ramp(dtype=np.uint8, step=1))
    (tmp_path / "text").write_text("no image")
    assert not is_dicom(tmp_path / "text") and not is_dicom(tmp_path / "gone")


PIXELS = ramp()
WRONG = {
    "frames": (dicom_bytes(PIXELS, frames=5), "expected one image, it has 5 frames"),
    "syntax": (dicom_bytes(PIXELS, syntax=HTJ2K), rf"its transfer syntax HTJ2K lossless \('{HTJ2K}'\) cannot be read"),
    "unknown": (dicom_bytes(PIXELS, syntax="1.2.3"), r"its transfer syntax is not known \('1.2.3'\)"),
    "cut": (dicom_bytes(PIXELS)[:-9], r"\(7fe0,0010\) claims 70 bytes, 61 are left; the file is cut short"),
    "rows": (dicom_bytes(PIXELS, extra=[(0x00280010, "US", 6)]), "claims 6×7 pixels of 16 bits, 84 bytes, it holds"),
    "huge": (dicom_bytes(PIXELS, extra=[(0x00280010, "US", 60000), (0x00280011, "US", 60000)]), "at most 200000000"),
    "none": (dicom_bytes(PIXELS)[: -PIXELS.nbytes - 12], "damaged or something else"),
    "text": (b"no image", "damaged or something else"),
    "empty": (b"", "damaged or something else"),
    "outside": (dicom_bytes(PIXELS, extra=window(-5000, 10)), "shows nothing of its values, 0 to 3400"),
    "function": (dicom_bytes(PIXELS, extra=window(9, 9, "CUBIC")), "VOI LUT function of LINEAR, .* got 'CUBIC'"),
    "infinite": (dicom_bytes(PIXELS, extra=window(9, "1e999")), r"a number as the attribute \(0028,1051\), got"),
    "number": (dicom_bytes(PIXELS, extra=window("wide", 9)), r"a number as the attribute \(0028,1050\), got 'wide'"),
    "colour": (dicom_bytes(np.stack([PIXELS] * 3, 2), photometric="RGB"), "of three values of 8 bits, got 3 of uint16"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_files_are_refused_in_one_line(tmp_path, kind):
    content, message = WRONG[kind]
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_grey(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="there is no file .*x.dcm"):
        read_grey(tmp_path / "x.dcm")


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    content, path = dicom_bytes(PIXELS, extra=window(300, 800)), tmp_path / "x.dcm"
    for kept in range(0, len(content), 41):
        path.write_bytes(content[:kept])
        with pytest.raises(UserError, match="x.dcm: "):
            read_grey(path)
