"""Boxes, cuts and the tissue score, compared with the golden crops and with plain loops."""

import numpy as np
import pytest
from skimage.transform import resize as skimage_resize

from data.crops import (
    BORDER,
    EXTRA_SLICES,
    GLOBAL_SIZES,
    LEAST_IOU,
    LOCAL_SIZES,
    MAX_TISSUE,
    cut,
    cut_global,
    draw_locals,
    draw_pairs,
    find_limits,
    iou,
    reachable_region,
    tissue_score,
)
from data.readers.volumes import load_resampled
from data.transforms.hounsfield import scale
from tests.golden_numbers import GOLDEN
from tests.scans import write_scan

THRESHOLD = (-150 + 1000) / 2000


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "luna_crops.npz")


@pytest.fixture(scope="module")
def golden_volume(golden, tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.mhd"
    write_scan(path, golden["volume"], spacing=golden["spacing"], origin=golden["origin"])
    return load_resampled(path)


def test_golden_resampling(golden, golden_volume):
    assert golden_volume.shape == tuple(golden["resampled_shape"]) and golden_volume.dtype == np.int16
    assert abs(int(golden_volume.sum(dtype=np.int64)) - golden["resampled_sum"]) < 1e-3 * golden_volume.size
    for i in range(3):
        ours = golden_volume[:, :, int(golden[f"resampled_slice_{i}_z"])].astype(int)
        difference = np.abs(ours - golden[f"resampled_slice_{i}"])
        assert difference.max() <= 1 and (difference == 0).mean() >= 0.999


@pytest.mark.parametrize("pair", range(3))
def test_golden_crops(golden, golden_volume, pair):
    for k in (0, 1):
        crop = cut_global(golden_volume, golden[f"pair{pair}_box{k + 1}"], (64, 64, 32))
        assert crop is not None and crop.dtype == np.float32
        assert np.abs(crop - golden[f"pair{pair}_global"][k]).max() < 1e-4
    boxes = [golden[f"pair{pair}_box{k}"][None] for k in (1, 2)]
    assert iou(*boxes)[0] == pytest.approx(golden[f"pair{pair}_iou"])
    starts, sizes = golden[f"pair{pair}_local_start"], golden[f"pair{pair}_local_size"]
    for start, size, expected in zip(starts, sizes, golden[f"pair{pair}_local"], strict=True):
        box = np.stack([start, start + size], axis=-1).reshape(6)
        assert np.abs(cut(golden_volume, box, (16, 16, 16)) - expected).max() < 1e-4


def test_cut_takes_hu_or_scaled_volumes_and_is_cut_short_at_the_border():
    hu = np.random.default_rng(0).integers(-1500, 1500, size=(20, 13, 9)).astype(np.int16)
    scaled = np.clip(hu / 2000 + 0.5, 0, 1)
    assert np.allclose(scale(hu), scaled, atol=1e-6)
    box = (-3, 11, 5, 40, 2, 9)
    expected = skimage_resize(scaled[0:11, 5:13, 2:9], (8, 16, 5), preserve_range=True)
    for volume in (hu, scaled, scaled.astype(np.float32)):
        crop = cut(volume, box, (8, 16, 5))
        assert crop.dtype == np.float32 and np.abs(crop - expected).max() < 1e-5
    with pytest.raises(ValueError, match="expected a box within"):
        cut(hu, (20, 30, 0, 5, 0, 5), (4, 4, 4))


def slow_score(crop, depth):
    total = 0.0
    for x, y, z in np.ndindex(*crop.shape[:2], depth):
        if crop[x, y, z] >= THRESHOLD:
            total += 1
        elif crop[x, y, z + 1] >= THRESHOLD:
            total += 0.5
    return total


def test_tissue_score_is_that_of_the_plain_loop():
    crop = np.random.default_rng(1).random((5, 7, 35)).astype(np.float32)
    crop[0, 0, 0] = np.float32(THRESHOLD)
    assert tissue_score(crop) == slow_score(crop, 32)
    assert tissue_score(crop, 16) == slow_score(crop, 16)
    assert tissue_score(crop[:, :, :11]) == slow_score(crop, 9)
    assert tissue_score(np.zeros((4, 4, 6))) == 0 and tissue_score(np.ones((4, 3, 6))) == 48
    last = np.zeros((1, 1, 35))
    last[..., 32] = 1  # the slice behind the 32 scored ones counts half
    assert tissue_score(last) == 0.5
    last[..., 32:] = [0, 1, 1]
    assert tissue_score(last) == 0


def test_crops_with_too_much_tissue_are_rejected_by_their_own_box():
    volume = np.full((100, 100, 100), -900, dtype=np.int16)
    volume[:, :, :50] = 40
    box = (10, 74, 10, 74, 0, 32)
    assert cut_global(volume, box, (64, 64, 32)) is None
    allowed = int(MAX_TISSUE * 64 * 64 * 32)
    volume[:] = -900
    volume[10:74, 10:74, :4] = 40
    assert allowed > 64 * 64 * 4 and cut_global(volume, box, (64, 64, 32)) is not None
    # A box of 96³ scores at most 64·64·32, which is less than 15 % of its volume.
    assert cut_global(np.full((96, 96, 99), 500, dtype=np.int16), (0, 96, 0, 96, 0, 96), (64, 64, 32)) is not None


def test_boxes_keep_their_distance_and_overlap():
    shape, rng = (301, 283, 190), np.random.default_rng(2)
    limits = find_limits(shape)
    assert not limits.narrow and np.array_equal(limits.sizes, GLOBAL_SIZES)
    pairs = np.concatenate([draw_pairs(limits, rng) for _ in range(100)])
    boxes = pairs.reshape(-1, 6)
    start, stop = boxes[:, ::2], boxes[:, 1::2]
    assert (start >= BORDER).all() and (stop <= np.array(shape) - BORDER - [0, 0, 3]).all()
    # Both ends are reached: a box that starts too late or stops too soon would show in thousands of draws.
    assert (start.min(axis=0) <= BORDER + 2).all() and (stop.max(axis=0) >= np.array(shape) - BORDER - [2, 2, 5]).all()
    sizes = {tuple(size) for size in (stop - start).tolist()}
    assert sizes == {tuple(size) for size in GLOBAL_SIZES.tolist()}
    assert (iou(pairs[:, 0], pairs[:, 1]) > LEAST_IOU).all()


def test_iou_by_hand():
    a = np.array([[0, 4, 0, 4, 0, 4]])
    assert iou(a, a) == 1
    assert iou(a, np.array([[2, 6, 0, 4, 0, 4]])) == pytest.approx(32 / 96)
    assert iou(a, np.array([[4, 8, 0, 4, 0, 4]])) == 0


@pytest.mark.parametrize("shape", [(190, 300, 90), (64, 80, 35), (150, 270, 100), (40, 33, 36), (239, 240, 128)])
def test_narrow_scans_get_boxes_within_them(shape):
    limits = find_limits(shape)
    assert len(limits.sizes)
    pairs = np.concatenate([draw_pairs(limits, np.random.default_rng(3)) for _ in range(20)]).reshape(-1, 6)
    assert len(pairs) and (pairs[:, ::2] >= 0).all()
    assert (pairs[:, 1::2] <= np.array(shape) - [0, 0, 3]).all()
    assert limits.narrow == (shape != (239, 240, 190))


def test_a_box_without_room_in_x_is_32_smaller_in_x_and_y():
    limits = find_limits((239, 400, 400))  # 239 − 140 = 99: room for 96, not for 112
    assert limits.sizes.tolist() == [[96, 96, 64], [96, 96, 96], [80, 80, 64], [64, 64, 32]] and not limits.narrow
    assert len(find_limits((31, 400, 400)).sizes) == 0


def test_local_boxes_lie_about_the_pair():
    pair = np.array([[70, 166, 80, 176, 20, 84], [90, 154, 70, 134, 15, 47]])
    boxes = np.concatenate([draw_locals(pair, (180, 178, 90), np.random.default_rng(i)) for i in range(1000)])
    start = boxes[:, ::2]
    assert start.min(axis=0).tolist() == [67, 67, 12] and start.max(axis=0).tolist() == [168, 177, 86]
    assert {tuple(size) for size in (boxes[:, 1::2] - start).tolist()} == {tuple(s) for s in LOCAL_SIZES.tolist()}
    edge = draw_locals(np.array([[0, 10, 0, 10, 0, 10]] * 2), (9, 9, 9), np.random.default_rng(0))
    assert edge[:, ::2].min() >= 0 and edge[:, ::2].max() <= 8


@pytest.mark.parametrize("shape", [(358, 358, 325), (300, 250, 120), (215, 390, 70), (90, 130, 40)])
@pytest.mark.parametrize("box_scale", [(1, 1), (0.5, 0.25)])
def test_no_crop_leaves_the_part_within_reach(shape, box_scale):
    limits, rng = find_limits(shape, box_scale), np.random.default_rng(0)
    needed = np.array([(part.start, part.stop) for part in reachable_region(limits, shape)]).T
    low, high = np.full(3, 10**6), np.zeros(3, dtype=int)
    for _ in range(80):
        for pair in draw_pairs(limits, rng):
            boxes = np.concatenate([pair + np.array([0, 0, 0, 0, 0, EXTRA_SLICES]), draw_locals(pair, shape, rng)])
            low = np.minimum(low, boxes[:, ::2].min(axis=0))
            high = np.maximum(high, np.minimum(boxes[:, 1::2], shape).max(axis=0))
    assert (needed[0] <= low).all() and (high <= needed[1]).all()
    # Nor is it much larger than what crops come from; the largest boxes and their outermost local crops are rare.
    assert (low - needed[0]).max() <= 32 and (needed[1] - high).max() <= 32
