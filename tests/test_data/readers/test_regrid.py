"""Masks and channels on other grids than their image: brought onto it where they show the same place, else refused."""

import numpy as np
import pytest
import SimpleITK as sitk

from data.datasets.cases import Case, ReadSpec, read_case
from data.mask_files import save_mask
from utils.errors import UserError

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.repeat(RNG.integers(0, 2, (5, 6, 7)), 2, axis=1), 2, axis=2).astype(np.uint8)  # z y x
SPACING, ORIGIN = (1.0, 1.0, 3.0), (5.0, -7.0, 11.0)
READING = ReadSpec(3, (0, 1))


def volume(values, spacing=SPACING, origin=ORIGIN):
    made = sitk.GetImageFromArray(values)
    made.SetSpacing(spacing)
    made.SetOrigin(origin)
    return made


def tilted(image, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    image.SetDirection((c, s, 0, -s, c, 0, 0, 0, 1))
    return image


def case_of(folder, images, mask, ending=".nii.gz"):
    files = []
    for i, image in enumerate((*images, mask)):
        files.append(folder / f"{i}{ending}")
        sitk.WriteImage(image, str(files[-1]))
    return Case("c", "c", tuple(files[:-1]), files[-1])


def image():
    return volume((LABELS * 5 + RNG.random(LABELS.shape)).astype(np.float32))


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("code", ["LPS", "RAS", "LPI", "ASR", "SAL"])
def test_flipped_and_permuted_masks_and_channels_lie_where_their_image_has_them(tmp_path, code, ending):
    one = image()
    case = case_of(tmp_path, (one, sitk.DICOMOrient(one, code)), sitk.DICOMOrient(volume(LABELS), code), ending)
    prepared, truth = read_case(case, READING)
    first, second = prepared.image
    assert first.shape == LABELS.shape[::-1]
    np.testing.assert_allclose(first, second, atol=1e-4)
    assert np.array_equal(prepared.labels, LABELS.transpose(2, 1, 0)) and np.array_equal(truth.labels, prepared.labels)
    assert truth.spacing == pytest.approx(SPACING) and truth.step == (1, 1, 1)


def test_a_tilted_pair_is_one_grid(tmp_path):
    case = case_of(tmp_path, (tilted(image(), 11),), sitk.DICOMOrient(tilted(volume(LABELS), 11), "RAS"))
    assert np.array_equal(read_case(case, READING)[0].labels, LABELS.transpose(2, 1, 0))


def test_a_mask_of_larger_voxels_in_the_same_place(tmp_path):
    small = LABELS[:, ::2, ::2]
    mask = volume(small, (2.0, 2.0, 3.0), (5.5, -6.5, 11.0))
    assert np.array_equal(read_case(case_of(tmp_path, (image(),), mask), READING)[0].labels, LABELS.transpose(2, 1, 0))
    # The same with the middles of the first voxels at one point, as some programs write it.
    mask.SetOrigin(ORIGIN)
    labels = read_case(case_of(tmp_path, (image(),), mask), READING)[0].labels
    # Every second voxel is halfway between two of the mask; the last one is beyond its last by less than a voxel.
    x, y = (np.minimum((np.arange(n) + 1) // 2, n // 2 - 1) for n in labels.shape[:2])
    assert np.array_equal(labels, small.transpose(2, 1, 0)[x][:, y])


def test_a_channel_of_larger_voxels_is_interpolated(tmp_path):
    x = np.broadcast_to(np.arange(14, dtype=np.float32), LABELS.shape).copy()
    coarse = volume(x[:, ::2, ::2] + 0.5, (2.0, 2.0, 3.0), (5.5, -6.5, 11.0))
    first, second = read_case(case_of(tmp_path, (volume(x), coarse), volume(LABELS)), READING)[0].image
    # A ramp is a ramp again, but for the border, beyond the last middles.
    np.testing.assert_allclose(first[1:-1], second[1:-1], atol=1e-4)


def test_rounded_headers_are_one_grid_and_change_no_value(tmp_path):
    one = image()
    rounded = volume(sitk.GetArrayFromImage(one), (1.0004, 0.9997, 3.0001), (5.02, -7.03, 10.99))
    prepared, _ = read_case(case_of(tmp_path, (one, rounded), volume(LABELS)), READING)
    assert np.array_equal(*prepared.image)


OTHERS = {
    "spacing": volume(LABELS, (2.0, 2.0, 2.0)), "origin": volume(LABELS, origin=(5.0, -7.0, 40.0)),
    "shifted by a voxel": volume(LABELS, origin=(6.0, -7.0, 11.0)), "direction": tilted(volume(LABELS), 20),
    "one slice more": volume(np.concatenate([LABELS, LABELS[:1]])), "one fewer": volume(LABELS[1:]),
    "no geometry": sitk.GetImageFromArray(LABELS),
}  # fmt: skip


@pytest.mark.parametrize("other", OTHERS)
def test_masks_and_channels_of_another_place_are_refused_with_both_geometries(tmp_path, other):
    other, good = OTHERS[other], volume(LABELS)
    for case, file in (
        (case_of(tmp_path, (image(),), other), "1.nii.gz: expected a mask"),
        (case_of(tmp_path, (image(), sitk.Cast(other, sitk.sitkFloat32)), good), "1.nii.gz: expected a channel"),
    ):
        with pytest.raises(UserError, match=file) as caught:
            read_case(case, READING)
        message = str(caught.value)
        assert "\n" not in message and message.count("direction") == message.count("spacing") == 2
        assert "0.nii.gz" in message and "spacing 1 1 3 mm" in message


def test_files_without_a_geometry_need_the_same_size(tmp_path):
    case = case_of(tmp_path, (image(),), volume(LABELS))
    np.save(tmp_path / "m.npy", LABELS.transpose(2, 1, 0))
    prepared, truth = read_case(case._replace(mask=tmp_path / "m.npy"), READING)
    assert np.array_equal(prepared.labels, LABELS.transpose(2, 1, 0)) and truth.spacing == pytest.approx(SPACING)
    np.save(tmp_path / "m.npy", LABELS)
    with pytest.raises(UserError, match=r"m.npy: expected a mask of the size of .*0.nii.gz, \(14, 12, 5\), got \(5,"):
        read_case(case._replace(mask=tmp_path / "m.npy"), READING)
    np.save(tmp_path / "i.npy", LABELS.transpose(2, 1, 0))
    _, truth = read_case(case._replace(images=(tmp_path / "i.npy",)), READING)
    assert truth.spacing == pytest.approx(SPACING), "the mask's, where the image knows none"


def test_a_saved_mask_has_the_images_geometry(tmp_path):
    """Read again, it is at the position of the mask in the image, whatever the mask's own axes."""
    case = case_of(tmp_path, (sitk.DICOMOrient(image(), "ASR"),), volume(LABELS))
    prepared, truth = read_case(case, READING)
    save_mask(tmp_path / "out", case, truth.labels)
    again, _ = read_case(case._replace(mask=tmp_path / "out" / "c.nii.gz"), READING)
    assert np.array_equal(again.labels, prepared.labels)
    saved = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "out" / "c.nii.gz")), "LPS")
    assert np.array_equal(sitk.GetArrayFromImage(saved), LABELS)


@pytest.mark.parametrize("offset, scale", [(1024, 1), (0, 0.001)])
def test_what_cannot_be_in_hounsfield_units_is_no_ct(tmp_path, offset, scale):
    hu = RNG.integers(-1000, 400, LABELS.shape)
    reading = READING._replace(hounsfield=True)
    assert read_case(case_of(tmp_path, (volume(hu.astype(np.int16)),), volume(LABELS)), reading)[0].image.min() < -500
    case = case_of(tmp_path, (volume(((hu + offset) * scale).astype(np.float32)),), volume(LABELS))
    with pytest.raises(UserError, match="0.nii.gz: expected a CT in Hounsfield units"):
        read_case(case, reading)
    read_case(case, READING)
