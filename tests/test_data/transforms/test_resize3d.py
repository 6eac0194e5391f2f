"""Resizing against scikit-image over lopsided shapes, and by hand."""

import numpy as np
import pytest
from skimage.transform import resize as skimage_resize

from data.transforms.resize3d import resize, resize_matrix

SHAPES = [
    ((12, 9, 7), (6, 4, 3)),  # shrinks everywhere
    ((5, 4, 3), (9, 11, 8)),  # grows everywhere
    ((20, 6, 9), (7, 6, 16)),  # shrinks, stays, grows
    ((1, 9, 2), (4, 1, 5)),
    ((2, 1, 8), (1, 3, 1)),
    ((9, 8, 7), (1, 1, 1)),
    ((1, 1, 1), (3, 2, 5)),
    ((3, 5, 6), (3, 5, 6)),
    ((29, 32, 16), (16, 16, 16)),  # a local crop that the border cut short
    ((40, 17, 67), (10, 16, 35)),
    ((33, 3, 2), (2, 16, 16)),  # a kernel wider than the axis
]


def random_volume(shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@pytest.mark.parametrize(("before", "after"), SHAPES)
def test_resize_is_scikit_images(before, after):
    volume = random_volume(before)
    ours = resize(volume, after)
    assert ours.dtype == np.float32 and ours.shape == after
    expected = skimage_resize(volume.astype(np.float64), after, preserve_range=True)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("axis", range(3))
def test_every_length_from_1_to_9_to_every_other(axis):
    for n_in in range(1, 10):
        for n_out in range(1, 10):
            before, after = [3, 2, 4], [3, 2, 4]
            before[axis], after[axis] = n_in, n_out
            volume = random_volume(before, seed=10 * n_in + n_out)
            expected = skimage_resize(volume.astype(np.float64), after, preserve_range=True)
            np.testing.assert_allclose(resize(volume, tuple(after)), expected, rtol=0, atol=1e-5, err_msg=f"{before}")


def test_houndsfield_sized_values_keep_their_digits():
    volume = random_volume((13, 6, 9)) * 4000 - 1000
    expected = skimage_resize(volume.astype(np.float64), (5, 8, 4), preserve_range=True)
    np.testing.assert_allclose(resize(volume, (5, 8, 4)), expected, rtol=1e-5, atol=1e-5 * 3000)


def test_growth_by_hand():
    # Output centres are at −¼, ¼, ¾, 1¼ of the input; beyond the border the axis is mirrored about voxel centres.
    assert resize_matrix(2, 4).tolist() == [[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.25, 0.75]]
    assert resize_matrix(1, 3).tolist() == [[1], [1], [1]]
    assert np.array_equal(resize_matrix(5, 5), np.eye(5))


def test_shrinkage_by_hand():
    # A factor of 3 blurs with σ 1, cut at 4 voxels, and then takes the middle voxel, 1, of each three.
    kernel = np.exp(-0.5 * np.arange(-4, 5) ** 2)
    kernel /= kernel.sum()
    # 15 voxels to 5: output 2 is centred on voxel 7, so far inside that nothing is mirrored.
    np.testing.assert_allclose(resize_matrix(15, 5)[2], np.pad(kernel, 3), atol=1e-7)


@pytest.mark.parametrize(("n_in", "n_out"), [(1, 1), (1, 9), (9, 1), (7, 3), (3, 7), (96, 64), (112, 16)])
def test_a_constant_stays_and_mirror_images_give_mirror_images(n_in, n_out):
    matrix = resize_matrix(n_in, n_out)
    assert matrix.dtype == np.float32 and matrix.shape == (n_out, n_in) and matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-6)


def test_axes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="argument"):
        resize(random_volume((3, 4)), (2, 2, 2))
