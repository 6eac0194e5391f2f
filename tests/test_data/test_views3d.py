"""Each 3D operation against TorchIO given the same drawn parameters; the draws by distribution."""

import numpy as np
import pytest
import torch
import torchio as tio
from scipy import ndimage, stats

from data.transforms import chunks
from data.transforms.affine3d import Affine, apply_affine, draw_affine
from data.transforms.blur3d import apply_blur, draw_blur
from data.transforms.intensity3d import apply_gamma, draw_gamma, draw_noise, z_normalize
from data.transforms.swap3d import PATCH, apply_swaps, draw_swaps, swap_at_once, voxels_of
from data.views3d import Views3d, apply_spatial, draw_spatial
from utils.records import RawCrops


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def volumes(n=3, shape=(20, 30, 12), seed=1):
    """Lopsided and smooth enough that a wrong place shows as a wrong value."""
    noise = torch.randn(n, *shape, generator=generator(seed)).numpy()
    return torch.from_numpy(np.stack([ndimage.gaussian_filter(v, 1.0) for v in noise])) * 3 + 0.2


def with_torchio(transform, volume):
    return transform(volume.unsqueeze(0).clone())[0]


def test_flip_is_torchios():
    x = volumes()
    still = Affine(torch.ones(3, 3), torch.zeros(3, 3))
    flipped = apply_affine(x, still, torch.tensor([True, False, True]))
    for i, flip in enumerate([True, False, True]):
        expected = with_torchio(tio.Flip(axes=(0,)), x[i]) if flip else x[i]
        torch.testing.assert_close(flipped[i], expected)


def test_flip_comes_before_the_affine_map():
    x = volumes()
    params = draw_affine(3, generator(2))
    together = apply_affine(x, params, torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(together, apply_affine(x.flip(1), params), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(20, 30, 12), (7, 5, 16), (2, 9, 3)])
def test_affine_is_torchios(shape):
    x = volumes(4, shape)
    params = draw_affine(4, generator(2))
    ours = apply_affine(x, params)
    for i in range(4):
        scales, degrees = (tuple(p[i].double().tolist()) for p in params)
        transform = tio.Affine(scales, degrees, (0, 0, 0), center="image", default_pad_value="minimum")
        expected = with_torchio(transform, x[i])
        close = (ours[i] - expected).abs() < 2e-4
        # A voxel right on the border of inside may fall on either side of it in float32.
        assert close.double().mean() > 0.999, f"{(~close).sum()} voxels differ"


def test_affine_of_large_angles_and_one_axis_at_a_time():
    x = volumes(3)
    for axis in range(3):
        degrees = torch.zeros(3, 3)
        degrees[:, axis] = torch.tensor([30.0, -50.0, 77.3])
        ours = apply_affine(x, Affine(torch.tensor([[1.2, 0.71, 1.0]] * 3), degrees))
        for i in range(3):
            transform = tio.Affine((1.2, 0.71, 1.0), tuple(degrees[i].tolist()), (0, 0, 0), center="image")
            close = (ours[i] - with_torchio(transform, x[i])).abs() < 2e-4
            assert close.double().mean() > 0.995


def test_affine_of_nothing_changes_nothing():
    x = volumes()
    still = Affine(torch.ones(3, 3), torch.zeros(3, 3))
    torch.testing.assert_close(apply_affine(x, still), x)


@pytest.mark.parametrize("shape", [(20, 30, 12), (4, 3, 16)])
def test_blur_is_torchios(shape):
    x = volumes(4, shape)
    sigma = draw_blur(4, generator(3))
    sigma[0] = torch.tensor([0.0, 0.05, 2.0])
    ours = apply_blur(x, sigma)
    for i in range(4):
        expected = with_torchio(tio.Blur(tuple(sigma[i].double().tolist())), x[i])
        torch.testing.assert_close(ours[i], expected.float(), rtol=1e-4, atol=2e-5)


def test_gamma_is_torchios():
    x = volumes()
    gamma = draw_gamma(3, generator(4))
    assert (x < 0).any()
    ours = apply_gamma(x, gamma)
    for i in range(3):
        torch.testing.assert_close(ours[i], with_torchio(tio.Gamma(gamma[i].item()), x[i]), rtol=1e-5, atol=1e-6)


def swap_as_on_a_gpu(x, swaps):
    return swap_at_once(x, voxels_of(swaps, x.shape[1:]))


@pytest.mark.parametrize("apply", [apply_swaps, swap_as_on_a_gpu])
# Of the small volume every voxel is swapped dozens of times, and some swaps are of a patch with itself.
@pytest.mark.parametrize(
    ("shape", "count"), [((20, 30, 12), 100), ((17, 6, 5), 100), ((20, 30, 12), 2), ((9, 9, 9), 1)]
)
def test_swaps_are_torchios(apply, shape, count):
    x = volumes(shape=shape)
    swaps = draw_swaps(3, x.shape[1:], generator(5), count)
    ours = apply(x, swaps)
    for i in range(3):
        locations = [(tuple(a), tuple(b)) for a, b in swaps[i].tolist()]
        assert torch.equal(ours[i], with_torchio(tio.Swap(PATCH, locations), x[i]))
    assert not torch.equal(ours, x)


def test_as_many_swaps_are_drawn_as_asked_for():
    pair, local = torch.rand(2, 2, 16, 8, 12), torch.rand(2, 3, 8, 8, 8)
    for swaps, expected in ((100, 100), (3, 3)):
        drawn = Views3d(swaps=swaps).draw(pair, local, generator(8))
        assert drawn.global_appearance.swaps.shape == (4, expected, 2, 3) and drawn.local_appearance.swaps is None
    assert Views3d(swaps=0).draw(pair, local, generator(8)).global_appearance.swaps is None


def test_z_normalisation_is_torchios():
    x = volumes()
    ours = z_normalize(x)
    for i in range(3):
        torch.testing.assert_close(ours[i], with_torchio(tio.ZNormalization(), x[i]), rtol=1e-5, atol=1e-6)
    constant = z_normalize(torch.full((1, 4, 4, 4), 0.3))
    torch.testing.assert_close(constant, torch.zeros(1, 4, 4, 4), atol=1e-6, rtol=0)


def test_swapped_patches_lie_inside_apart_and_anywhere():
    shape = torch.Size((20, 30, 12))
    swaps = draw_swaps(40, shape, generator(6)).numpy()
    for axis, (length, patch) in enumerate(zip(shape, PATCH, strict=True)):
        starts = swaps[..., axis]
        assert starts.min() == 0 and starts.max() == length - patch - 1
        first = starts[:, :, 0].ravel()
        assert stats.chisquare(np.bincount(first, minlength=length - patch)).pvalue > 1e-3
    apart = (np.abs(swaps[:, :, 0] - swaps[:, :, 1]) >= PATCH).any(axis=-1)
    assert apart.all()


def test_draws_have_the_distributions_of_the_reference_page():
    n = 4000
    affine, spatial = draw_affine(n, generator(7)), draw_spatial(n, generator(8))
    assert abs(spatial.flip.double().mean() - 0.5) < 0.03
    uniforms = {
        "scale": (affine.scales, 0.9, 1.1),
        "degrees": (affine.degrees, -10, 10),
        "sigma": (draw_blur(n, generator(9)), 0, 2),
        "log gamma": (draw_gamma(n, generator(10)).log(), -0.3, 0.3),
    }
    for name, (values, low, high) in uniforms.items():
        for column in values.reshape(n, -1).T.numpy():
            assert stats.kstest(column, stats.uniform(low, high - low).cdf).pvalue > 1e-3, name
        if values.dim() == 2:
            assert abs(np.corrcoef(values.T.numpy())[0, 1:]).max() < 0.06, name


def test_noise_has_a_strength_of_its_own_per_volume():
    noise = draw_noise(torch.zeros(600, 6, 7, 8), generator(11)).flatten(1)
    assert stats.kstest(noise.std(1).numpy(), stats.uniform(0, 0.25).cdf).pvalue > 1e-3
    normal = (noise / noise.std(1, keepdim=True)).flatten().numpy()
    assert abs(normal.mean()) < 0.01 and abs(stats.kurtosis(normal)) < 0.05


def raw(batch=3):
    return RawCrops(
        torch.rand(batch, 2, 16, 12, 10, generator=generator(12)), volumes(batch * 4, (6, 8, 7)).view(batch, 4, 6, 8, 7)
    )


def test_views_have_the_shapes_and_scales_of_the_record():
    views = Views3d()(raw(), generator(13))
    for name in ("global1", "global2", "target"):
        assert getattr(views, name).shape == (3, 1, 16, 12, 10)
    assert views.local.shape == (3, 4, 1, 6, 8, 7)
    assert all(field.dtype == torch.float32 for field in views)
    for x in (views.global1, views.global2, views.local.flatten(0, 1)):
        torch.testing.assert_close(x.mean(dim=(1, 2, 3, 4)), torch.zeros(len(x)), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.std(dim=(1, 2, 3, 4)), torch.ones(len(x)), atol=1e-4, rtol=0)
    assert views.target.min() >= 0 and views.target.max() <= 1


def test_views_are_a_function_of_the_generator_and_never_shared_between_samples():
    first, again, other = (Views3d()(raw(), generator(seed)) for seed in (14, 14, 15))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)
    same = torch.rand(1, 2, 16, 12, 10).expand(4, 2, -1, -1, -1)
    same = same[:, :1].expand(-1, 2, -1, -1, -1)
    local = torch.rand(1, 1, 6, 8, 7).expand(4, 5, -1, -1, -1)
    views = Views3d()((same, local), generator(16))
    targets, locals_ = views.target.flatten(1), views.local.flatten(0, 1).flatten(1)
    for rows in (targets, views.global1.flatten(1), locals_, torch.cat([views.global1, views.global2]).flatten(1)):
        distances = torch.cdist(rows, rows) + torch.eye(len(rows)) * 1e9
        assert distances.min() > 0.1


def test_views_do_not_depend_on_how_many_are_worked_on_together(monkeypatch):
    together = Views3d()(raw(), generator(18))
    monkeypatch.setattr(chunks, "CHUNK_NUMBERS", 1)
    for a, b in zip(together, Views3d()(raw(), generator(18)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_target_is_the_first_view_before_its_appearance_changed():
    crops = raw()
    views = Views3d()(crops, generator(17))
    moved = apply_spatial(crops.pair.flatten(0, 1), draw_spatial(6, generator(17)))
    assert torch.equal(views.target[:, 0], moved.view(3, 2, 16, 12, 10)[:, 0])


def test_other_float_types_are_taken():
    crops = raw()
    half = RawCrops(crops.pair.half(), crops.local.double())
    assert Views3d()(half, generator(1)).global1.dtype == torch.float32
