"""DICOM series to volumes: order, axes, tilt, uneven distances, and what is refused or left out."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from data.catalog.dicom_scans import find_series
from data.readers.dicom_series import arrange, read_series, read_slice
from data.readers.volumes import INTENSITIES, VolumeSpec, load_resampled, read_header
from tests.dicom_files import dicom_bytes, ramp
from tests.dicom_slices import ORIGIN, UID, write_series, write_slice
from utils.errors import UserError

HU = (
    (gaussian_filter(np.random.default_rng(3).normal(size=(9, 20, 14)), 1.5) * 3000 - 300)
    .clip(-1024, 3000)
    .astype(np.int16)
)
# Rows of cosines by the patient's side that x and y of a slice point to: axial, coronal, sagittal, feet first.
PLANES = {
    "axial": (1, 0, 0, 0, 1, 0), "coronal": (1, 0, 0, 0, 0, -1), "sagittal": (0, 1, 0, 0, 0, -1),
    "mirrored": (-1, 0, 0, 0, 1, 0), "oblique": (0.96, 0.28, 0, -0.28, 0.96, 0),
}  # fmt: skip


def find_one(folder):
    found = find_series(folder, verbose=False)
    assert len(found.series) == 1 and not found.refused, found.refused
    return found.series[0]


@pytest.mark.parametrize("plane", PLANES)
def test_a_series_is_the_volume_that_simpleitk_reads_and_writes_as_nifti(tmp_path, plane):
    series = find_one(write_series(tmp_path / "series", HU, orientation=PLANES[plane]))
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "series"))
    image = sitk.ReadImage(names)
    sitk.WriteImage(image, str(tmp_path / "same.nii.gz"))
    for spec in (*(VolumeSpec(intensity) for intensity in INTENSITIES), VolumeSpec(spacing=2.0)):
        expected = load_resampled(tmp_path / "same.nii.gz", spec=spec)
        assert np.array_equal(load_resampled(series, spec=spec), expected)
        assert read_header(series, spec).size_at(spec.spacing) == expected.shape
    assert abs(np.array(read_header(series).origin) - read_header(tmp_path / "same.nii.gz").origin).max() < 1e-4


def test_hounsfield_units_and_axes(tmp_path):
    series = find_one(write_series(tmp_path, HU, spacing=(1, 1, 1)))
    assert np.array_equal(load_resampled(series), HU.transpose(2, 1, 0))
    assert read_header(series).origin == ORIGIN and read_header(series).spacing == (1, 1, 1)
    scaled = load_resampled(series, spec=VolumeSpec("minmax"))
    assert (scaled.min(), scaled.max()) == (-1000, 1000)
    expected = (HU.transpose(2, 1, 0) - float(HU.min())) / (HU.max() - HU.min()) * 2000 - 1000
    assert abs(scaled - expected).max() <= 1


def test_each_slice_has_its_own_rescale(tmp_path):
    """As in PET: whole numbers first, then fractions."""
    for i, slope in enumerate((1, 0.25, 2)):
        extra = [(0x00281053, "DS", str(slope)), (0x00281052, "DS", "-8")]
        pixels = np.arange(30).reshape(5, 6) - 1024  # stored as 0 to 29
        write_slice(tmp_path / str(i), pixels, (0, 0, i), instance=i, spacing=(1, 1, 1), extra=extra)
    values = sitk.GetArrayFromImage(read_series(find_one(tmp_path)))
    assert np.array_equal(values, np.stack([slope * np.arange(30).reshape(5, 6) - 8 for slope in (1, 0.25, 2)]))


@pytest.mark.parametrize("degrees", [18, -18])
def test_a_tilted_gantry_is_straightened(tmp_path, degrees):
    """The patient is a function of the position: what is read at a voxel is the patient there."""
    spacing, tilt = (0.5, 0.5, 1.0), np.tan(np.radians(degrees))

    def patient(x, y, z):
        return -500 + 20 * x + 10 * y - 15 * z

    positions = [(3, -4 + z * tilt, z) for z in range(8)]
    y, x = np.mgrid[:30, :20] * 0.5
    volume = np.array([patient(x + px, y + py, pz) for px, py, pz in positions]).round().astype(np.int16)
    series = find_one(write_series(tmp_path, volume, spacing=spacing, positions=positions))
    grid = read_header(series)
    assert grid.size == (20, 30 + int(np.ceil(7 * abs(tilt) / 0.5)), 8) and grid.spacing == spacing
    read = load_resampled(series, spec=VolumeSpec(spacing=0.5))
    inside = 0
    for voxel in np.ndindex(20, 30, 15):
        point = np.array(grid.origin) + np.array(voxel) * 0.5
        if 0.5 <= point[1] + 4 - point[2] * tilt <= 14 and voxel[2] % 2 == 0:
            inside += 1
            assert abs(read[voxel] - patient(*point)) <= 2
    assert inside > 3000
    assert read[0, -1 if degrees > 0 else 0, 0] == volume.min(), "no slice is there"


def test_uneven_distances_are_interpolated_and_missing_slices_are_refused(tmp_path):
    depths = np.array([0, 1, 2.15, 3, 4.1, 5])
    volume = np.broadcast_to((100 * depths)[:, None, None] - 400, (6, 12, 10)).round().astype(np.int16)
    series = find_one(write_series(tmp_path / "a", volume, spacing=(1, 1, 1), positions=[(0, 0, d) for d in depths]))
    read = load_resampled(series)
    assert read.shape == (10, 12, 6) and abs(read - (100 * np.arange(6) - 400)).max() <= 1
    gaps = [(0, 0, 2.5 * i) for i in range(10) if i != 6]
    found = find_series(write_series(tmp_path / "b", HU, positions=gaps), verbose=False)
    assert not found.series and len(found.refused) == 1
    assert f"{tmp_path}/b: series {UID}" in found.refused[0] and "2.5 to 5 mm apart" in found.refused[0]
    assert "missing after [0.0, 0.0, 12.5] mm" in found.refused[0]


def test_echoes_and_times_of_one_series_are_volumes_of_their_own(tmp_path):
    acquisition, echo = 0x00200012, 0x00180086
    for i, number in enumerate((10, 9)):  # as numbers, not as text
        extra = [(echo, "IS", str(number)), (acquisition, "IS", "1")]
        write_series(tmp_path / "mri" / str(number), HU // (i + 1), spacing=(1, 1, 1), first=50 * i, extra=extra)
    found = find_series(tmp_path, verbose=False)
    volumes = {one.uid: load_resampled(one) for one in found.series}
    assert set(volumes) == {f"{UID}_1", f"{UID}_2"} and not found.refused
    for number, part in ((1, 2), (2, 1)):
        assert np.array_equal(volumes[f"{UID}_{number}"], (HU // part).transpose(2, 1, 0))


def test_slices_in_one_place_and_other_grids_are_refused(tmp_path):
    write_series(tmp_path, HU)
    write_series(tmp_path / "later", HU, first=50)
    assert "9 are where another one is" in find_series(tmp_path, verbose=False).refused[0]
    write_series(tmp_path / "x", HU[:, :9], uid="1.2.9")
    write_series(tmp_path / "x" / "y", HU, uid="1.2.9", first=50)
    with pytest.raises(UserError, match="one size, spacing and orientation, it has 2"):
        arrange([read_slice(path) for path in sorted((tmp_path / "x").rglob("IM*"))], tmp_path / "x")


def test_what_is_no_slice_is_left_out_by_name(tmp_path, capsys):
    series = write_series(tmp_path / "ct", HU)
    scout = [(0x00080008, "CS", "ORIGINAL\\PRIMARY\\LOCALIZER")]
    write_slice(tmp_path / "ct" / "scout", HU[0], (0, 0, 0), instance=70, extra=scout)
    write_slice(tmp_path / "ct" / "coronal.dcm", HU[0], (0, 0, 0), instance=71, orientation=PLANES["coronal"])
    write_slice(tmp_path / "lone" / "one.dcm", HU[0], (0, 0, 0), uid="1.2.5", instance=1)
    (tmp_path / "xray").write_bytes(dicom_bytes(ramp(), extra=[(0x0020000E, "UI", "1.2.6")]))
    colour = np.stack([ramp(dtype=np.uint8)] * 3, axis=-1)
    (tmp_path / "fused").write_bytes(dicom_bytes(colour, photometric="RGB", extra=[(0x0020000E, "UI", "1.2.7")]))
    (tmp_path / "report.dcm").write_bytes(b"no image")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "notes.doc").write_text("no DICOM")
    (tmp_path / "ct" / "copy").mkdir()
    (tmp_path / "ct" / "copy" / "again.dcm").write_bytes((series / "IM0000").read_bytes())
    found = find_series(tmp_path)
    assert [(one.folder, one.uid, len(one.files)) for one in found.series] == [(tmp_path / "ct", UID, 9)]
    assert not found.refused
    error = capsys.readouterr().err
    for line in (
        "1 of 16 DICOM files, localizers (ct/scout)", "1 of 16 DICOM files, copies of a slice (ct/copy/again.dcm)",
        "2 of 16 DICOM files, single slices (ct/coronal.dcm, lone/one.dcm)",
        "1 of 16 DICOM files, images in colour (fused)",
        "1 of 16 DICOM files, images without a position in the patient (xray)",
        "1 of 16 DICOM files, files that cannot be read as DICOM images (report.dcm); the first: ",
    ):  # fmt: skip
        assert f"{tmp_path}: left out: {line}" in error
    assert f"{tmp_path}: left out: 1 files that are no volumes (notes.doc)" in error


def test_a_volume_in_one_file_is_refused_by_name(tmp_path):
    path = tmp_path / "enhanced.dcm"
    path.write_bytes(dicom_bytes(ramp(10), extra=[(0x00080060, "CS", "CT")], frames=2))
    assert f"{path}: expected one slice a file" in find_series(tmp_path, verbose=False).refused[0]


def test_slices_in_several_folders_and_several_series_in_one(tmp_path):
    write_series(tmp_path / "disc", HU, uid="1.2.9")
    write_series(tmp_path / "disc", HU[::-1] // 2, uid="1.2.10", origin=(0, 0, 0))
    (tmp_path / "disc" / "more").mkdir()
    for path in sorted((tmp_path / "disc").glob("IM*"))[:4]:
        path.rename(tmp_path / "disc" / "more" / path.name)
    found = find_series(tmp_path, verbose=False).series
    assert [(one.uid, one.folder) for one in found] == [("1.2.10", tmp_path / "disc")]


def test_damaged_positions_and_cut_files_are_refused(tmp_path):
    series = find_one(write_series(tmp_path / "a", HU))
    content = series.files[4].read_bytes()
    series.files[4].write_bytes(content[:-100])
    with pytest.raises(UserError, match=f"{series.files[4]}: its element .* are left; the file is cut short"):
        load_resampled(series)
    write_slice(tmp_path / "b" / "x.dcm", HU[0], (0, 0, float("nan")), instance=1)
    assert "expected 3 numbers as the attribute (0020,0032)" in find_series(tmp_path / "b", verbose=False).refused[0]
    write_slice(tmp_path / "c" / "x.dcm", HU[0], (0, 0, 0), instance=1, spacing=(0, 1, 1))
    assert "x.dcm: expected a spacing above 0" in find_series(tmp_path / "c", verbose=False).refused[0]
