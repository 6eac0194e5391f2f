"""What fine-tuning and evaluation show the network: beside torchvision, Pillow and TorchIO, given the same draws."""

import numpy as np
import pytest
import torch
import torchio as tio
import torchvision.transforms.functional as TF
from PIL import Image
from torchvision.transforms import InterpolationMode

from data import views2d, views3d
from data.inputs import AugmentedCubes, AugmentedInputs, FlippedCrops, as_input, eval_cubes, eval_inputs
from data.transforms.central_crop import central_square
from data.transforms.chunks import part
from tests.test_data.test_recipe2d import assert_same_view, moved_by_torchvision, normalized
from tests.test_data.test_recipe3d import assert_same_crop, crops, generator, moved_by_torchio
from utils.records import LabelledCrops, LabelledCubes, LabelledImages

SIDE = 80


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    rows = np.stack([np.kron(rng.integers(0, 256, (20, 25)), np.ones((8, 8))) for _ in range(4)]).astype(np.uint8)
    smooth = np.stack([np.asarray(Image.fromarray(row).resize((190, 150), Image.Resampling.BICUBIC)) for row in rows])
    return torch.from_numpy(smooth).unsqueeze(1)


def test_x_rays_are_augmented_as_published(images):
    """RandomResizedCrop of its default area, 0.08 to 1, rotation by 10° and flip; no blur, no jitter, no cutout."""
    labels, sizes = torch.rand(4, 14), torch.tensor([[150, 190]] * 4)
    inputs, given = AugmentedInputs(SIDE)(LabelledImages(images, sizes, labels), generator(3))
    assert given is labels and inputs.shape == (4, 3, SIDE, SIDE)
    params = views2d.draw_spatial(sizes, (0.08, 1.0), generator(3))
    for i, ours in enumerate(inputs):
        moved = moved_by_torchvision(pil(images[i]), part(params, slice(i, i + 1)), SIDE)
        assert_same_view(ours, normalized(moved))


def pil(image):
    return Image.fromarray(image[0].numpy()).convert("RGB")


@pytest.mark.parametrize(("height", "width"), [(600, 740), (510, 400), (300, 300)])
def test_evaluation_resizes_to_256_and_takes_the_centre_of_224(height, width):
    rng = np.random.default_rng(2)
    grey = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8), dtype=np.uint8))
    image = grey.resize((width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).unsqueeze(0)
    resized = TF.resize(image.convert("RGB"), 256, InterpolationMode.BILINEAR, antialias=True)
    expected = normalized(TF.center_crop(resized, 224))
    central = central_square(pixels, 224)
    assert central.shape == (1, 224, 224)
    labels = torch.zeros(1, 14)
    (ours,), given = eval_inputs(LabelledImages(central.unsqueeze(0), torch.tensor([[224, 224]]), labels))
    assert given is labels
    assert_same_view(ours, expected)


def test_cubes_are_moved_as_in_pre_training_and_z_normalised():
    cubes, labels = crops(1, 5, 16, 14, 12, seed=3)[0].unsqueeze(1), torch.ones(5, 1)
    inputs, given = AugmentedCubes()(LabelledCubes(cubes, labels), generator(4))
    params = views3d.draw_spatial(5, generator(4))
    assert given is labels and params.flip.any() and not params.flip.all()
    plain, _ = eval_cubes(LabelledCubes(cubes, labels))
    for i, ours in enumerate(inputs):
        moved = moved_by_torchio(cubes[i].clone(), part(params, slice(i, i + 1)))
        assert_same_crop(ours, tio.ZNormalization()(moved))
        torch.testing.assert_close(plain[i], tio.ZNormalization()(cubes[i]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dim", "shape", "axes"), [(3, (4, 5, 6), (2, 3, 4)), (2, (4, 5), (3,))])
def test_segmentation_flips_images_and_masks_alike_along_each_axis(dim, shape, axes):
    images = torch.rand(1, 2, *shape, generator=generator(1)).expand(400, -1, *[-1] * dim)
    masks = (images[:, :1] > 0.5).to(torch.uint8)
    inputs, flipped = FlippedCrops(dim)(LabelledCrops(images, masks), generator(2))
    counts = {}
    for one, mask in zip(inputs, flipped, strict=True):
        found = [
            which for which in range(2 ** len(axes))
            if torch.equal(mask, masks[0].flip([axis - 1 for k, axis in enumerate(axes) if which >> k & 1]))
        ]  # fmt: skip
        (which,) = found
        expected = images[:1].flip([axis for k, axis in enumerate(axes) if which >> k & 1])
        torch.testing.assert_close(one, as_input(dim)(expected)[0])
        counts[which] = counts.get(which, 0) + 1
    # Each axis with p ½: all combinations alike, to five standard deviations.
    share = 1 / 2 ** len(axes)
    assert len(counts) == 2 ** len(axes)
    assert all(abs(n / 400 - share) < 5 * (share * (1 - share) / 400) ** 0.5 for n in counts.values())


def test_segmentation_in_2d_sees_the_grey_that_pre_training_saw(images):
    inputs = as_input(2)(images.float() / 255)
    for ours, image in zip(inputs, images, strict=True):
        torch.testing.assert_close(ours, normalized(pil(image)), rtol=0, atol=1e-4)
