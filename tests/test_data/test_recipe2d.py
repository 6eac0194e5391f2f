"""The 2D recipe as a whole: each view beside torchvision and Pillow in the published order, given the same draws.

All numbers of the recipe stand here once more, so that none can change unseen.
"""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageFilter
from scipy import ndimage, stats
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from data.transforms.chunks import part
from data.views2d import Views2d
from utils.records import RawImages

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GLOBAL, LOCAL, N_LOCAL = 224, 96, 6
SIZES = [(300, 260), (250, 330), (320, 320)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def batch():
    """Textured images of three sizes, as the loader puts them side by side."""
    rng = np.random.default_rng(1)
    height, width = np.max(SIZES, axis=0)
    pixels = torch.zeros(len(SIZES), 1, height, width, dtype=torch.uint8)
    for image, (h, w) in zip(pixels, SIZES, strict=True):
        texture = ndimage.gaussian_filter(rng.normal(size=(h, w)), 1.5) + np.linspace(-0.3, 0.3, w)
        texture = (texture - texture.min()) / np.ptp(texture)
        image[0, :h, :w] = torch.from_numpy((255 * texture).astype(np.uint8))
    return RawImages(pixels, torch.tensor(SIZES))


@pytest.fixture(scope="module", params=[3, 4])
def replayed(request, batch):
    """(what Views2d gives, the parameters that it drew) for two seeds."""
    return Views2d()(batch, generator(request.param)), Views2d().draw(batch.sizes, generator(request.param))


def moved_by_torchvision(image, spatial, size):
    """RandomResizedCrop → RandomRotation → RandomHorizontalFlip of one RGB image."""
    (top,), (left,), (height,), (width,) = (side.tolist() for side in spatial.boxes)
    image = TF.resized_crop(
        image, top, left, height, width, [size, size], InterpolationMode.BILINEAR, antialias=True
    )  # fmt: skip
    image = TF.rotate(image, spatial.rotation.degrees.item(), InterpolationMode.NEAREST, expand=False, fill=0)
    return TF.hflip(image) if spatial.rotation.flip.item() else image


def changed_by_torchvision(image, appearance):
    """RandomGrayscale → Gaussian blur → ColorJitter of one RGB image; of grey, hue and saturation change nothing."""
    image = TF.to_grayscale(image, 3)
    if appearance.sigma.item():
        image = image.filter(ImageFilter.GaussianBlur(appearance.sigma.item()))
    brightness, contrast, contrast_first = (field.item() for field in appearance.jitter)
    steps = [(TF.adjust_brightness, brightness), (TF.adjust_contrast, contrast)]
    for adjust, factor in reversed(steps) if contrast_first else steps:
        image = adjust(image, factor)
    return TF.adjust_hue(TF.adjust_saturation(image, 1.3), 0.2)


def normalized(image):
    return TF.normalize(TF.to_tensor(image), MEAN, STD)


def cut_out(view, centres):
    """Three squares of side 32, clipped at the border, set to 0."""
    assert centres.shape == (3, 2)
    for row, column in centres.tolist():
        view[:, max(0, row - 16) : row + 16, max(0, column - 16) : column + 16] = 0
    return view


def grey_levels(view):
    return (view * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255


def assert_same_view(ours, expected, stretch=1.0):
    """To a third of a grey level on average, and to two or three at most where rounding falls otherwise.

    Args:
        ours, expected: 3 S S.
        stretch: what brightness and contrast have made of one grey level, at most 1.4².
    """
    assert ours.shape == expected.shape
    difference = (grey_levels(ours) - grey_levels(expected)).abs() / stretch
    assert difference.mean() < 0.35 and difference.max() < 3.1


def views_of(replayed, batch):
    """Each view: (name, ours, image in RGB, its parameters of space and of appearance, side)."""
    views, params = replayed
    n = len(batch.pixels)
    globals_ = torch.cat([views.global1, views.global2])
    locals_ = views.local.transpose(0, 1).flatten(0, 1)
    for kind, ours, spatial, appearance, size in (
        ("global", globals_, params.global_spatial, params.global_appearance, GLOBAL),
        ("local", locals_, params.local_spatial, params.local_appearance, LOCAL),
    ):
        assert len(ours) == len(appearance.sigma) == n * (2 if kind == "global" else N_LOCAL)
        for i, view in enumerate(ours):
            height, width = batch.sizes[i % n].tolist()
            image = Image.fromarray(batch.pixels[i % n, 0, :height, :width].numpy()).convert("RGB")
            some = slice(i, i + 1)
            yield kind, view, image, part(spatial, some), part(appearance, some), size


def test_every_view_is_the_published_chain_of_torchvision_and_pillow(batch, replayed):
    cases = set()
    for kind, ours, image, spatial, appearance, size in views_of(replayed, batch):
        expected = normalized(changed_by_torchvision(moved_by_torchvision(image, spatial, size), appearance))
        if kind == "global":
            expected = cut_out(expected, appearance.cutout[0])
            # Cut out after normalising: 0 is the mean's grey there, no number to be compared by its grey level alone.
            assert torch.equal(ours == 0, expected == 0)
        else:
            assert appearance.cutout is None
        brightness, contrast, _ = appearance.jitter
        assert_same_view(ours, expected, stretch=brightness.clamp(min=1).item() * contrast.clamp(min=1).item())
        cases.add((kind, bool(appearance.sigma), appearance.jitter.contrast_first.item()))
    assert len(cases) == 8, "both kinds of views, blurred or not, in both orders of jitter"


def test_the_target_is_the_first_view_as_it_was_moved(batch, replayed):
    views, params = replayed
    for i, target in enumerate(views.target):
        height, width = SIZES[i]
        image = Image.fromarray(batch.pixels[i, 0, :height, :width].numpy()).convert("RGB")
        expected = normalized(moved_by_torchvision(image, part(params.global_spatial, slice(i, i + 1)), GLOBAL))
        assert_same_view(target, expected)


@pytest.fixture(scope="module")
def drawn():
    """The draws of 1200 images of one size: 2400 global and 7200 local views."""
    return Views2d().draw(torch.tensor([[400, 500]]).expand(1200, 2), generator(5))


def published_boxes(area):
    """RandomResizedCrop's own draws: n 4, (top, left, height, width)."""
    image = torch.zeros(1, 400, 500)
    torch.manual_seed(0)
    return np.array([RandomResizedCrop.get_params(image, list(area), [3 / 4, 4 / 3]) for _ in range(2400)])


@pytest.mark.parametrize(("kind", "area"), [("global", (0.3, 1.0)), ("local", (0.05, 0.3))])
def test_boxes_are_those_of_random_resized_crop(drawn, kind, area):
    ours = torch.stack(getattr(drawn, f"{kind}_spatial").boxes, dim=1).numpy()
    theirs = published_boxes(area)
    for name, f in {
        "top": lambda b: b[:, 0], "left": lambda b: b[:, 1], "area": lambda b: b[:, 2] * b[:, 3] / (400 * 500),
        "ratio": lambda b: b[:, 3] / b[:, 2],
    }.items():  # fmt: skip
        assert stats.ks_2samp(f(ours), f(theirs)).pvalue > 1e-3, name
    shares, ratios = ours[:, 2] * ours[:, 3] / (400 * 500), ours[:, 3] / ours[:, 2]
    # Sides are whole pixels.
    assert area[0] - 2e-3 < shares.min() < area[0] + 0.01 and area[1] - 0.02 < shares.max() < area[1] + 2e-3
    assert 0.74 < ratios.min() < 0.77 and 1.31 < ratios.max() < 1.35


def assert_uniform(values, low, high):
    """Reaches both ends, never leaves them, and is flat in between."""
    values = values.double().numpy().ravel()
    near = 20 * (high - low) / len(values)
    assert low <= values.min() <= low + near and high - near <= values.max() <= high
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["global", "local"])
def test_everything_else_is_drawn_as_published(drawn, kind):
    spatial, appearance = getattr(drawn, f"{kind}_spatial"), getattr(drawn, f"{kind}_appearance")
    n = len(appearance.sigma)
    assert n == (2400 if kind == "global" else 7200)
    assert_uniform(spatial.rotation.degrees, -10, 10)
    assert_uniform(appearance.sigma[appearance.sigma > 0], 0.1, 2.0)
    assert_uniform(appearance.jitter.brightness, 0.6, 1.4)
    assert_uniform(appearance.jitter.contrast, 0.6, 1.4)
    for event in (spatial.rotation.flip, appearance.sigma > 0, appearance.jitter.contrast_first):
        # Five standard deviations.
        assert abs(event.double().mean().item() - 0.5) < 5 * math.sqrt(0.25 / n)


def test_global_views_alone_have_three_squares_cut_out_anywhere(drawn):
    assert drawn.local_appearance.cutout is None
    centres = drawn.global_appearance.cutout
    assert centres.shape == (2400, 3, 2) and centres.min() == 0 and centres.max() == GLOBAL - 1
    for axis in range(2):
        counts = np.bincount(centres[..., axis].ravel().numpy(), minlength=GLOBAL)
        assert stats.chisquare(counts).pvalue > 1e-3


def test_no_two_views_share_a_draw(drawn):
    for spatial, appearance in (
        (drawn.global_spatial, drawn.global_appearance), (drawn.local_spatial, drawn.local_appearance),
    ):  # fmt: skip
        for values in (spatial.rotation.degrees, appearance.jitter.brightness, appearance.jitter.contrast):
            assert len(values.unique()) > 0.99 * len(values)
        # Draws of one view are independent of those of the next view of the same image.
        degrees = spatial.rotation.degrees.view(-1, 1200).numpy()
        assert abs(np.corrcoef(degrees)[0, 1:]).max() < 0.12
