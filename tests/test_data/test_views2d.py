"""Each 2D operation against torchvision or PIL given the same drawn parameters; the draws by distribution."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from PIL import Image, ImageFilter
from scipy import ndimage, stats
from torchvision.transforms import RandomResizedCrop

from data.transforms.blur2d import apply_blur, blur_by_matrices, draw_blur
from data.transforms.cutout import SIDE, apply_cutout, cutout_mask, draw_cutout
from data.transforms.jitter import Jitter, apply_jitter, draw_jitter
from data.transforms.resized_crop import Boxes, Cropper, draw_boxes, resize_by_matrices, resized_crop
from data.transforms.rotation2d import Rotation, apply_rotation, draw_rotation, rotate_by_gather
from data.views2d import MEAN, STD, Views2d, apply_spatial, draw_spatial, normalize
from utils.records import RawImages


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=3, height=70, width=90, seed=1, smooth=1.5):
    noise = np.random.default_rng(seed).normal(size=(n, height, width))
    blurred = np.stack([ndimage.gaussian_filter(x, smooth) for x in noise])
    blurred = (blurred - blurred.min()) / (blurred.max() - blurred.min()) * 255
    return torch.from_numpy(blurred.astype(np.uint8)).unsqueeze(1)


def pil(image):
    return Image.fromarray(image.reshape(image.shape[-2:]).numpy())


def numbers(image):
    return torch.from_numpy(np.array(image).astype(np.int64))


@pytest.mark.parametrize("resize", [resized_crop, resize_by_matrices])
@pytest.mark.parametrize("size", [16, 32, 50, 63])
def test_resized_crop_is_pils(resize, size):
    images = pictures()
    boxes = draw_boxes(torch.tensor([[70, 90]] * 6), (0.05, 1.0), generator(2))
    ours = resize(images, boxes, size).long()
    for i, (top, left, height, width) in enumerate(zip(*(b.tolist() for b in boxes), strict=True)):
        expected = numbers(TF.resized_crop(pil(images[i % 3]), top, left, height, width, [size, size], antialias=True))
        difference = (ours[i] - expected).abs()
        # Rounding of weights and half-way cases, twice.
        assert difference.max() <= 2 and (difference > 1).double().mean() < 1e-3
        assert difference.double().mean() < 0.25


def test_an_image_of_1024_pixels_cut_to_96_looks_as_pils():
    image = pictures(1, 1024, 1024, smooth=0.7)
    box = Boxes(*(torch.tensor([v]) for v in (10, 20, 1000, 980)))
    expected = numbers(TF.resized_crop(pil(image), 10, 20, 1000, 980, [96, 96], antialias=True))
    aliased = numbers(
        TF.resized_crop(pil(image), 10, 20, 1000, 980, [96, 96], interpolation=TF.InterpolationMode.NEAREST)
    )
    for resize in (resized_crop, resize_by_matrices):
        ours = resize(image, box, 96)[0].long()
        assert (ours - expected).abs().max() <= 1
    assert (aliased - expected).abs().max() > 20


def test_on_a_cpu_a_resized_crop_is_torchs_to_the_number():
    """However its lines are grouped: boxes start and end anywhere, one line high too."""
    images = pictures(1, 41, 53, smooth=0.5)
    boxes = [(top, left, height, 11 + top) for top in range(5) for left, height in ((0, 1), (3, 6), (7, 36), (2, 35))]
    ours = resized_crop(images.expand(2, -1, -1, -1), Boxes(*torch.tensor(boxes).T), 24)
    for crop, (top, left, height, width) in zip(ours, boxes, strict=True):
        box = images[:, :, top : top + height, left : left + width]
        expected = F.interpolate(box, size=(24, 24), mode="bilinear", antialias=True)
        assert torch.equal(crop, expected[0, 0])


@pytest.mark.parametrize("turn", [apply_rotation, rotate_by_gather])
@pytest.mark.parametrize("size", [96, 63])
def test_turn_is_torchvisions_on_pil_to_the_pixel(turn, size):
    images = pictures(8, size, size)[:, 0]
    params = draw_rotation(8, generator(3))
    ours = turn(images, params)
    assert params.flip.any() and not params.flip.all()
    for i in range(8):
        expected = TF.rotate(pil(images[i]), params.degrees[i].item())
        expected = TF.hflip(expected) if params.flip[i] else expected
        assert torch.equal(ours[i].long(), numbers(expected))


@pytest.mark.parametrize("turn", [apply_rotation, rotate_by_gather])
def test_turn_by_large_angles(turn):
    images = pictures(3, 40, 40)[:, 0]
    ours = turn(images, Rotation(torch.tensor([37.0, -120.0, 200.0]).double(), torch.tensor([False] * 3)))
    for i, degrees in enumerate((37.0, -120.0, 200.0)):
        assert torch.equal(ours[i].long(), numbers(TF.rotate(pil(images[i]), degrees)))


@pytest.mark.parametrize("sigma", [0.1, 0.4, 0.8, 1.3, 1.42, 1.7, 2.0])
def test_blur_is_pils(sigma):
    images = pictures(2, 60, 60, smooth=0.5)[:, 0]
    sigmas = torch.tensor([sigma, 0.0])
    expected = numbers(pil(images[0]).filter(ImageFilter.GaussianBlur(sigma))).float()
    on_cpu, by_matrices = apply_blur(images, sigmas), blur_by_matrices(images, sigmas)
    assert torch.equal(on_cpu[0], expected)
    # PIL rounds to 8 bits after each of its six passes.
    difference = (by_matrices[0] - expected).abs()
    assert difference.max() <= 4 and difference.mean() < 0.8
    for ours in (on_cpu, by_matrices):
        assert torch.equal(ours[1], images[1].float())


def test_blur_on_a_cpu_is_pils_to_the_number_at_any_sigma():
    """σ of 1 and √2 too, where sums end on a half and where the box grows; and images smaller than the box."""
    rng = np.random.default_rng(2)
    sigmas = torch.tensor([1.0, 2**0.5, 0.1, 2.0, *rng.uniform(0.1, 2, 60)])
    for height, width in ((31, 44), (1, 3), (5, 1), (2, 2)):
        images = torch.from_numpy(rng.integers(0, 256, (len(sigmas), height, width), dtype=np.uint8))
        for image, ours, sigma in zip(images, apply_blur(images, sigmas), sigmas.tolist(), strict=True):
            assert torch.equal(ours, numbers(pil(image).filter(ImageFilter.GaussianBlur(sigma))).float()), sigma


def test_blur_by_matrices_takes_the_same_from_the_spectrum_as_pils():
    image = pictures(1, 128, 128, smooth=0.3)[:, 0]
    ours = blur_by_matrices(image, torch.tensor([1.5]))[0].numpy()
    expected = np.array(pil(image).filter(ImageFilter.GaussianBlur(1.5))).astype(float)
    power = [np.abs(np.fft.rfft2(x - x.mean()))[:32, :32] for x in (ours, expected, image[0].numpy())]
    low = np.s_[1:10, 1:10]
    np.testing.assert_allclose(power[0][low].mean(), power[1][low].mean(), rtol=0.02)
    assert power[2][low].mean() > 1.1 * power[0][low].mean()


@pytest.mark.parametrize("contrast_first", [True, False])
def test_jitter_is_torchvisions(contrast_first):
    images = pictures(6)[:, 0, :50, :50]
    brightness, contrast, _ = draw_jitter(6, generator(4))
    ours = apply_jitter(images.float(), Jitter(brightness, contrast, torch.tensor([contrast_first] * 6)))
    for i in range(6):
        image = pil(images[i]).convert("RGB")
        steps = [(TF.adjust_contrast, contrast[i].item()), (TF.adjust_brightness, brightness[i].item())]
        for adjust, factor in steps if contrast_first else reversed(steps):
            image = adjust(image, factor)
        image = TF.adjust_hue(TF.adjust_saturation(image, 1.3), 0.2)
        difference = (ours[i] - numbers(image)[..., 0]).abs()
        assert difference.max() <= 1 and difference.mean() < 0.05


def test_cutout_squares_are_clipped_at_the_border():
    squares = torch.tensor([[[0, 0], [50, 60], [50, 60]]])
    mask = cutout_mask(squares, 96)[0]
    assert torch.equal(apply_cutout(torch.ones(1, 3, 96, 96), squares)[0], mask.expand(3, -1, -1))
    assert mask[:16, :16].sum() == 0 and mask[34:66, 44:76].sum() == 0
    assert mask.numel() - mask.sum() == 16 * 16 + SIDE * SIDE
    centres = draw_cutout(3000, 96, generator(5)).flatten(0, 1)
    assert centres.min() == 0 and centres.max() == 95
    assert stats.chisquare(np.bincount(centres[:, 0].numpy(), minlength=96)).pvalue > 1e-3


@pytest.mark.parametrize(("side", "rows"), [(9, slice(46, 55)), (10, slice(45, 55)), (1, slice(50, 51)), (0, slice(0))])
def test_squares_of_any_side_are_cut_out(side, rows):
    squares = torch.tensor([[[50, 60], [50, 60], [50, 60]]])
    expected = torch.ones(96, 96)
    expected[rows, slice(rows.start + 10, rows.stop + 10) if side else rows] = 0
    assert torch.equal(apply_cutout(torch.ones(1, 1, 96, 96), squares, side)[0, 0], expected)
    assert torch.equal(cutout_mask(squares, 96, side)[0], expected)


def test_the_side_of_the_squares_reaches_the_global_views():
    batch = torch.full((2, 1, 80, 90), 200, dtype=torch.uint8)
    plain, cut = (Views2d(global_size=64, local_size=32, cutout_size=s)(batch, generator(1)) for s in (0, 6))
    changed = (plain.global1 != cut.global1).any(1).flatten(1).sum(1)
    assert (changed > 0).all() and (changed <= 3 * 36).all()
    assert torch.equal(plain.target, cut.target) and torch.equal(plain.local, cut.local)


@pytest.mark.parametrize("area", [(0.3, 1.0), (0.05, 0.3)])
def test_boxes_are_drawn_as_torchvisions(area):
    n, height, width = 3000, 300, 400
    boxes = draw_boxes(torch.tensor([[height, width]] * n), area, generator(6))
    image = torch.zeros(1, height, width)
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(image, list(area), [3 / 4, 4 / 3]) for _ in range(n)])
    ours = torch.stack(boxes, dim=1).numpy()
    for name, f in {
        "top": lambda b: b[:, 0], "left": lambda b: b[:, 1], "height": lambda b: b[:, 2], "width": lambda b: b[:, 3],
        "area": lambda b: b[:, 2] * b[:, 3], "ratio": lambda b: b[:, 3] / b[:, 2],
    }.items():  # fmt: skip
        assert stats.ks_2samp(f(ours), f(theirs)).pvalue > 1e-3, name
    assert (ours[:, 0] + ours[:, 2] <= height).all() and (ours[:, 1] + ours[:, 3] <= width).all()


def test_where_no_box_fits_the_centre_is_taken():
    boxes = draw_boxes(torch.tensor([[10, 200], [200, 10]]), (0.9, 1.0), generator(7))
    assert [b.tolist() for b in boxes] == [[0, 93], [93, 0], [10, 13], [13, 10]]


def test_other_draws_have_the_distributions_of_the_reference_page():
    n = 4000
    sigma, turn, jitter = draw_blur(n, generator(8)), draw_rotation(n, generator(9)), draw_jitter(n, generator(10))
    blurred = sigma[sigma > 0]
    assert abs(len(blurred) / n - 0.5) < 0.03 and abs(turn.flip.double().mean() - 0.5) < 0.03
    assert abs(jitter.contrast_first.double().mean() - 0.5) < 0.03
    for values, low, high in [
        (blurred, 0.1, 2.0), (turn.degrees, -10, 10), (jitter.brightness, 0.6, 1.4), (jitter.contrast, 0.6, 1.4),
    ]:  # fmt: skip
        assert stats.kstest(values.numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(jitter.brightness, jitter.contrast)[0, 1]) < 0.06


def small_views(seed, batch, **kwargs):
    return Views2d(global_size=64, local_size=32, n_local=4)(batch, generator(seed), **kwargs)


def test_views_have_the_shapes_of_the_record_and_published_sizes_by_default():
    views = Views2d()(pictures(2, 100, 120), generator(11))
    assert views.global1.shape == views.global2.shape == views.target.shape == (2, 3, 224, 224)
    assert views.local.shape == (2, 6, 3, 96, 96)
    assert all(field.dtype == torch.float32 for field in views)


def test_target_is_the_first_view_before_its_appearance_changed():
    images = pictures()
    views = small_views(12, images)
    sizes = torch.tensor([[70, 90]] * 6)
    moved = apply_spatial(Cropper(images), draw_spatial(sizes, (0.3, 1.0), generator(12)), 64)[:3]
    torch.testing.assert_close(views.target, normalize(moved))
    for c in range(3):
        back = views.target[:, c] * STD[c] + MEAN[c]
        torch.testing.assert_close(back, moved / 255.0, atol=1e-5, rtol=0)


def test_views_are_a_function_of_the_generator_and_never_shared_between_samples():
    first, again, other = (small_views(seed, pictures()) for seed in (14, 14, 15))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)
    views = small_views(16, pictures(1).expand(5, -1, -1, -1))
    for rows in (views.target, views.global1, torch.cat([views.global1, views.global2]), views.local.flatten(0, 1)):
        flat = rows.flatten(1)
        assert (torch.cdist(flat, flat) + torch.eye(len(flat)) * 1e9).min() > 0.5


def test_images_of_other_sizes_are_cut_within_their_own():
    pixels = torch.zeros(2, 1, 80, 90, dtype=torch.uint8)
    pixels[0, :, :40, :90], pixels[1, :, :80, :30] = 200, 200
    batch = RawImages(pixels, torch.tensor([[40, 90], [80, 30]]))
    spatial = draw_spatial(batch.sizes.repeat(30, 1), (0.05, 0.3), generator(17))
    boxes = torch.stack(spatial.boxes, dim=1)
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        assert top + height <= batch.sizes[i % 2][0] and left + width <= batch.sizes[i % 2][1]
    crops = resized_crop(pixels, spatial.boxes, 32)
    assert crops.min() == 200
