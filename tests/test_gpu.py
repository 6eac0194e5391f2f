"""What only a CUDA GPU can show: views as on a CPU, steps by a graph as steps without it, fp16. Skipped elsewhere."""

import copy

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from benchmarks.speed.training import QUICK_SIZES, build_views, make_trainer, raw_batch
from data.views2d import Views2d
from data.views3d import Views3d
from engine.guard import LARGEST_LOSS_AFTER_EPOCH
from engine.precision import Precision
from engine.step_graph import STEPS_BEFORE
from tests.devices import GPU
from utils.records import RawCrops, RawImages
from utils.seeding import torch_generator

pytestmark = pytest.mark.skipif(GPU is None, reason="needs a CUDA GPU")

BATCH = 4
STEPS = [(epoch, step) for epoch in (0, LARGEST_LOSS_AFTER_EPOCH + 1) for step in range(STEPS_BEFORE + 3)]


def on_gpu(tree):
    return tree_map(lambda leaf: leaf.to(GPU) if isinstance(leaf, torch.Tensor) else leaf, tree)


def differences(on_cpu, found):
    pairs = zip(tree_leaves(on_cpu), tree_leaves(found), strict=True)
    return [(b.cpu() - a).abs() / a.std() for a, b in pairs]


def test_2d_views_are_those_of_a_cpu():
    generator = torch_generator("images")
    coarse = torch.rand(BATCH, 1, 9, 11, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (150, 190), mode="bicubic").clamp(0, 1)
    images, views = (255 * smooth).byte(), Views2d(global_size=96, local_size=32)
    params = views.draw(torch.tensor([[150, 190]] * BATCH), generator)
    for difference in differences(views.apply(images, params), views.apply(images.to(GPU), on_gpu(params))):
        # A GPU resizes and blurs by matrices, to within a grey level of Pillow, 1/50 of the standard deviation.
        assert difference.mean() < 5e-3 and (difference > 0.1).double().mean() < 1e-3


def test_3d_views_are_those_of_a_cpu():
    generator, views = torch_generator("crops"), Views3d()
    pair, local = (torch.rand(BATCH, *shape, generator=generator) for shape in ((2, 32, 24, 16), (6, 16, 16, 16)))
    params = views.draw(pair, local, generator)
    on_cpu, found = views.apply(pair, local, params), views.apply(*on_gpu(RawCrops(pair, local)), on_gpu(params))
    for difference in differences(on_cpu, found):
        assert difference.mean() < 1e-4 and (difference > 1e-2).double().mean() < 1e-3


def raw_of(d):
    """A batch of small crops, or of X-rays as coarse as their views are small."""
    if d == 3:
        return raw_batch(3, QUICK_SIZES[3], BATCH, GPU)
    coarse = torch.rand(BATCH, 1, 12, 16, generator=torch_generator("images"))
    smooth = torch.nn.functional.interpolate(coarse, (96, 128), mode="bicubic").clamp(0, 1)
    return RawImages((255 * smooth).byte(), torch.tensor([[96, 128]] * BATCH))


def make(d, folder, *, amp, graph):
    return make_trainer(d, GPU, folder, build_views(d, QUICK_SIZES[d]), amp=amp, graph=graph)


def weights_of(trainer):
    return torch.cat([x.detach().flatten() for x in trainer.task.module.parameters()])


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("d", [2, 3])
def test_a_step_by_a_graph_is_one_without_it(d, amp, tmp_path, monkeypatch):
    """Step by step from the same state, since GPU kernels add in any order and further steps amplify the difference."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    graphed, plain = make(d, tmp_path, amp=amp, graph=True), make(d, tmp_path, amp=amp, graph=False)
    raw = on_gpu(raw_of(d))
    for epoch, step in STEPS:
        plain.load_state_dict(copy.deepcopy({**graphed.state_dict(), "position": (epoch, step)}))
        before = weights_of(plain)
        for trainer in (plain, graphed):
            trainer.epoch_meter.reset()
            trainer.set_rate(0, 1.0)  # the rate of later epochs is 0
            trainer.train_step(raw, epoch, step)
        expected, found = (trainer.epoch_meter.read() for trainer in (plain, graphed))
        losses = {name for name in expected if not name.startswith("gradient_norm")}
        tolerance = 1e-2 if amp else 1e-4
        assert {name: found[name] for name in losses} == pytest.approx(
            {name: expected[name] for name in losses}, rel=tolerance, abs=tolerance
        ), (epoch, step)
        change, difference = (weights_of(plain) - before).norm(), (weights_of(graphed) - weights_of(plain)).norm()
        assert difference < (0.2 if amp else 0.02) * change, (epoch, step, difference / change)
    assert graphed.graphed_steps.replay is not None and graphed.guard.read() == plain.guard.read() == (0, False)


@pytest.mark.parametrize("d", [2, 3])
def test_fp16_trains_with_its_scaler(d, tmp_path):
    trainer = make(d, tmp_path, amp=False, graph=False)
    precision = Precision(GPU, torch.float16, torch.amp.GradScaler("cuda"))
    trainer.precision = trainer.task.module.precision = precision
    raw = on_gpu(raw_of(d))
    for step in range(6):
        trainer.train_step(raw, 0, step)
    good, _ = trainer.epoch_meter.read_steps()
    assert good >= 3 and trainer.epoch_meter.read()["total"] < 10
