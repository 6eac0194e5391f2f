"""Images shrunk while they are read: by the mean of what is left out, never by picking single pixels of it."""

import numpy as np
import pytest
from PIL import Image

from data.readers.images import read_grey


@pytest.fixture(scope="module")
def texture():
    """Fine grains of 2 pixels on a slope: what is picked differs from what is averaged by tens of grey levels."""
    rng = np.random.default_rng(0)
    grains = np.kron(rng.integers(-90, 91, (300, 420)), np.ones((2, 2)))
    return (np.clip(128 + grains + np.linspace(-30, 30, 840), 0, 255)).astype(np.uint8)


@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
@pytest.mark.parametrize("side", [250, 100, 60])
def test_shrunk_images_are_averaged(tmp_path, texture, name, side):
    Image.fromarray(texture).save(tmp_path / name, quality=98)
    ours = read_grey(tmp_path / name, side).astype(float)
    size = side, round(600 * side / 840)
    assert ours.shape == size[::-1]
    averaged = np.asarray(Image.fromarray(texture).resize(size, Image.Resampling.BOX)).astype(float)
    picked = np.asarray(Image.fromarray(texture).resize(size, Image.Resampling.NEAREST)).astype(float)
    spread = (picked - averaged).std()
    assert spread > 15
    # A triangle and a box average over about as much, but not the same.
    assert (ours - averaged).std() < 0.5 * spread
    assert ours.std() < 1.2 * averaged.std() < 0.9 * picked.std()
    assert abs(ours.mean() - texture.mean()) < 1
