"""The 3D recipe as a whole: each view beside TorchIO's transforms in the published order, given the same draws.

All numbers of the recipe stand here once more, so that none can change unseen.
"""

import math

import numpy as np
import pytest
import torch
import torchio as tio
from scipy import ndimage, stats

import engine.pretrain
import main
from data.transforms.chunks import part
from data.views3d import Views3d
from tests.narrow_main import NarrowPCRLv23d
from tests.programs import run
from utils.records import RawCrops

PATCH, SWAPS = (8, 4, 4), 100
BATCH, PAIR, LOCAL = 3, (24, 18, 14), (12, 9, 10)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def crops(*shape, seed):
    """Lopsided, in 0..1, and smooth enough that a wrong place shows as a wrong value."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, [0, 0, 1, 1, 1])
    return torch.from_numpy((smooth - smooth.min()) / np.ptp(smooth)).float()


@pytest.fixture(scope="module")
def batch():
    return RawCrops(crops(BATCH, 2, *PAIR, seed=1), crops(BATCH, 6, *LOCAL, seed=2))


@pytest.fixture(scope="module", params=[3, 4])
def replayed(request, batch):
    """(what Views3d gives, the parameters that it drew) for two seeds."""
    return Views3d()(batch, generator(request.param)), Views3d().draw(*batch, generator(request.param))


def moved_by_torchio(crop, spatial):
    """RandomFlip → RandomAffine of one crop, 1 X Y Z."""
    scales, degrees = (tuple(field[0].double().tolist()) for field in spatial.affine)
    if spatial.flip.item():
        crop = tio.Flip(axes=(0,))(crop)
    return tio.Affine(scales, degrees, (0, 0, 0), center="image", default_pad_value="minimum")(crop)


def changed_by_torchio(crop, appearance, *, swap):
    """RandomBlur → RandomNoise → RandomGamma → RandomSwap → ZNormalization of one crop, 1 X Y Z."""
    crop = tio.Blur(tuple(appearance.sigma[0].double().tolist()))(crop).float()
    crop = tio.Gamma(appearance.gamma.item())(crop + appearance.noise)
    if swap:
        assert appearance.swaps.shape == (1, SWAPS, 2, 3)
        crop = tio.Swap(PATCH, [(tuple(a), tuple(b)) for a, b in appearance.swaps[0].tolist()])(crop)
    return tio.ZNormalization()(crop)


def assert_same_crop(ours, expected):
    """To float32, but for the few voxels at the border of inside, which may fall on either side, and what they blur."""
    assert ours.shape == expected.shape
    difference = (ours - expected).abs()
    assert difference.median() < 1e-4 and (difference < 2e-3).double().mean() > 0.98


def views_of(replayed, batch):
    """Each view: (name, ours 1 X Y Z, raw crop 1 X Y Z, its parameters of space and of appearance)."""
    views, params = replayed
    globals_ = torch.stack([views.global1, views.global2], dim=1).flatten(0, 1)
    for kind, ours, raw, spatial, appearance in (
        ("global", globals_, batch.pair, params.global_spatial, params.global_appearance),
        ("local", views.local.flatten(0, 1), batch.local, params.local_spatial, params.local_appearance),
    ):
        assert len(ours) == len(appearance.gamma) == BATCH * (2 if kind == "global" else 6)
        for i, (view, crop) in enumerate(zip(ours, raw.flatten(0, 1).unsqueeze(1), strict=True)):
            some = slice(i, i + 1)
            yield kind, view, crop, part(spatial, some), part(appearance, some)


def test_every_view_is_the_published_chain_of_torchio(batch, replayed):
    for kind, ours, crop, spatial, appearance in views_of(replayed, batch):
        is_global = kind == "global"
        assert is_global or appearance.swaps is None
        expected = changed_by_torchio(moved_by_torchio(crop.clone(), spatial), appearance, swap=is_global)
        assert_same_crop(ours, expected)


def test_the_target_is_the_first_crop_as_it_was_moved(batch, replayed):
    views, params = replayed
    for i, target in enumerate(views.target):
        first = part(params.global_spatial, slice(2 * i, 2 * i + 1))
        assert_same_crop(target, moved_by_torchio(batch.pair[i, :1].clone(), first))


@pytest.fixture(scope="module")
def drawn():
    """The draws of 700 samples: 1400 global and 4200 local crops."""
    return Views3d().draw(torch.empty(700, 2, 16, 11, 9), torch.empty(700, 6, 6, 5, 4), generator(5))


def assert_uniform(values, low, high):
    """Reaches both ends, never leaves them, and is flat in between."""
    values = values.double().numpy().ravel()
    near = 20 * (high - low) / len(values)
    assert low <= values.min() <= low + near and high - near <= values.max() <= high
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["global", "local"])
def test_everything_is_drawn_as_torchios_defaults(drawn, kind):
    spatial, appearance = getattr(drawn, f"{kind}_spatial"), getattr(drawn, f"{kind}_appearance")
    n = len(appearance.gamma)
    assert n == (1400 if kind == "global" else 4200)
    assert abs(spatial.flip.double().mean().item() - 0.5) < 5 * math.sqrt(0.25 / n)
    for values, low, high in (
        (spatial.affine.scales, 0.9, 1.1), (spatial.affine.degrees, -10, 10), (appearance.sigma, 0, 2),
    ):  # fmt: skip
        assert values.shape == (n, 3)
        for column in values.T:
            assert_uniform(column, low, high + 1e-6)
        assert abs(np.corrcoef(values.T.numpy())[0, 1:]).max() < 0.12
    assert_uniform(appearance.gamma.log(), -0.3 - 1e-6, 0.3 + 1e-6)
    noise = appearance.noise.flatten(1)
    strength = noise.square().mean(dim=1).sqrt().numpy()
    assert stats.kstest(strength, stats.uniform(0, 0.25).cdf).pvalue > 1e-3
    assert 0.24 < strength.max() < 0.29 and abs(noise.mean()) < 2e-3
    assert abs(stats.kurtosis((noise / noise.std(dim=1, keepdim=True)).flatten().numpy())) < 0.1


def test_global_crops_alone_have_100_swaps_of_patches_apart():
    shape = (40, 22, 17)
    drawn = Views3d().draw(torch.empty(40, 2, *shape), torch.empty(40, 6, 20, 20, 20), generator(6))
    assert drawn.local_appearance.swaps is None
    swaps = drawn.global_appearance.swaps
    assert swaps.shape == (80, 100, 2, 3)
    for axis, (length, patch) in enumerate(zip(shape, PATCH, strict=True)):
        starts = swaps[:, :, 0, axis].flatten().numpy()
        assert stats.chisquare(np.bincount(starts, minlength=length - patch)).pvalue > 1e-3
    assert ((swaps[:, :, 0] - swaps[:, :, 1]).abs() >= torch.tensor(PATCH)).any(dim=-1).all()


def test_no_two_crops_share_a_draw(drawn):
    for spatial, appearance in (
        (drawn.global_spatial, drawn.global_appearance), (drawn.local_spatial, drawn.local_appearance),
    ):  # fmt: skip
        for values in (spatial.affine.degrees[:, 0], spatial.affine.scales[:, 0], appearance.gamma):
            assert len(values.unique()) > 0.99 * len(values)
        degrees = spatial.affine.degrees[:, 0].view(700, -1).T.numpy()
        assert abs(np.corrcoef(degrees)[0, 1:]).max() < 0.16


def test_crops_with_more_or_fewer_local_views_pre_train(tmp_path, monkeypatch, capsys):
    """Of each local view one comparison with each global one; a file that disagrees with the first is a broken one."""
    n_local = 4
    rng = np.random.default_rng(0)
    folder = tmp_path / "crops" / "subset0"
    folder.mkdir(parents=True)
    for i in range(5):
        np.save(folder / f"scan{i}_global_0.npy", rng.random((2, 16, 8, 8), dtype=np.float32))
        local = n_local + 1 if i == 4 else n_local
        np.save(folder / f"scan{i}_local_0.npy", rng.random((local, 8, 8, 8), dtype=np.float32))
    monkeypatch.setattr(main, "PCRLv23d", NarrowPCRLv23d)
    drawn, draw = [], engine.pretrain.draw_stages
    monkeypatch.setattr(engine.pretrain, "draw_stages", lambda *a: drawn.append(draw(*a)) or drawn[-1])
    status, error = run(
        monkeypatch, capsys, "--data", tmp_path / "crops", "--output", tmp_path / "out", "--n", "luna", "--d", 3,
        "--b", 5, "--ratio", 1.0, "--workers", 0, "--epochs", 0, "--max_bad", 0.3,
    )  # fmt: skip
    assert status == 0, error
    assert f"scan4_global_0.npy: expected crops of ((2, 16, 8, 8), ({n_local}, 8, 8, 8))" in error
    assert drawn and all(len(stages) == 1 + 2 * n_local for stages in drawn)
