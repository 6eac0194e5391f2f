"""Resampling, compared with SimpleITK's."""

import numpy as np
import pytest
import SimpleITK as sitk

from data.readers.resample import resample

EVERYTHING = (slice(None),) * 3


def with_simpleitk(volume, spacing, origin, size, direction=None):
    scan = sitk.GetImageFromArray(volume)
    scan.SetSpacing(spacing)
    scan.SetOrigin(origin)
    if direction:
        scan.SetDirection(direction)
    grid = (size, sitk.Transform(), sitk.sitkLinear, origin, (1.0,) * 3, scan.GetDirection(), 0, sitk.sitkInt16)
    return sitk.GetArrayFromImage(sitk.Resample(scan, *grid))


def case(spacing, shape=(21, 33, 40), dtype=np.int16, seed=0):
    volume = np.random.default_rng(seed).integers(-1000, 2000, shape).astype(dtype)
    return volume, tuple(int(n * s + 0.5) for n, s in zip(shape[::-1], spacing, strict=True))


GEOMETRIES = {
    "LUNA16's usual": ((0.703125, 0.703125, 2.5), (-195.3, -187.21, -302.5)),
    "round numbers": ((0.7, 0.65, 1.25), (0.0, 0.0, 0.0)),
    "half voxels and far outside": ((2.0, 0.5, 3.0), (-7.0, 3.0, 2.0)),
    "odd numbers": ((0.7421879768371582, 1.31, 0.625), (170.3, -160.2, 31.25)),
    "1 mm": ((1.0, 1.0, 1.0), (3.5, -2.25, 0.1)),
}


@pytest.mark.parametrize("spacing, origin", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("direction", [None, (-1, 0, 0, 0, -1, 0, 0, 0, 1)])
def test_numbers_are_simpleitks(spacing, origin, direction):
    volume, size = case(spacing)
    expected = with_simpleitk(volume, spacing, origin, size, direction)
    ours = resample(volume, spacing, origin, size, EVERYTHING)
    assert ours.dtype == np.int16 and ours.shape == expected.shape
    difference = np.abs(ours.astype(int) - expected)
    # A sum very close to an integer is truncated to that integer or to the one below.
    assert difference.max() <= 1 and np.count_nonzero(difference) <= 1e-4 * difference.size


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_other_kinds_of_numbers_are_cut_to_16_bits(dtype):
    volume, size = case((0.8, 1.1, 1.7), dtype=np.float64)
    volume = (volume * 20).clip(0, 255).astype(dtype) if dtype == np.uint8 else (volume * 20).clip(0).astype(dtype)
    expected = with_simpleitk(volume, (0.8, 1.1, 1.7), (0.0, 0.0, 0.0), size)
    ours = resample(volume, (0.8, 1.1, 1.7), (0.0, 0.0, 0.0), size, EVERYTHING)
    assert np.abs(ours.astype(int) - expected).max() <= 1 and expected.max() == (255 if dtype == np.uint8 else 32767)


def test_axes_of_one_voxel():
    volume, size = case((0.9, 2.0, 3.0), shape=(1, 4, 1))
    expected = with_simpleitk(volume, (0.9, 2.0, 3.0), (0.0,) * 3, size)
    assert np.array_equal(resample(volume, (0.9, 2.0, 3.0), (0.0,) * 3, size, EVERYTHING), expected)


@pytest.mark.parametrize("spacing", [(0.7, 1.3, 2.5), (1.6, 0.8, 0.5)])
def test_a_part_is_that_of_the_whole_and_the_rest_is_nothing(spacing):
    volume, size = case(spacing)
    whole = resample(volume, spacing, (5.1, -3.2, 0.4), size, EVERYTHING, outside=-7)
    needed = (slice(3, 20), slice(5, size[1]), slice(0, size[2] - 1))
    part = resample(volume, spacing, (5.1, -3.2, 0.4), size, needed, outside=-7)
    assert np.array_equal(part[needed[::-1]], whole[needed[::-1]])
    part[needed[::-1]] = 0
    assert not part.any()
