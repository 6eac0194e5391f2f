"""PCRL_PLAIN=1 switches every trick of speed off, and gives the same numbers."""

from functools import partial

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image

from data.readers import png
from data.readers.images import read_grey
from data.transforms import box_blur, resized_crop
from data.transforms.chunks import chunks
from data.views2d import Views2d
from data.views3d import Views3d
from engine.precision import Precision
from engine.pretrain import PretrainStep, PretrainTask
from models import upsampling
from models.pcrlv2_model import PCRLv2
from tests.narrow_main import NarrowPCRLv23d
from utils import reused_memory
from utils.plain import plain
from utils.records import RawCrops, RawImages

CPU = torch.device("cpu")
TRICKS = [
    (box_blur, "blur_by_boxes"), (resized_crop, "resize_box"), (resized_crop, "interleave"),
    (upsampling, "common_kernel"), (upsampling, "common_kernel_of_nearest"), (reused_memory.weakref, "finalize"),
]  # fmt: skip


def raw_images():
    rng = np.random.default_rng(0)
    blocks = torch.from_numpy(np.kron(rng.integers(0, 256, (4, 1, 18, 22)), np.ones((4, 4))).astype(np.uint8))
    return RawImages(blocks, torch.tensor([[72, 88]] * 4))


def raw_crops():
    generator = torch.Generator().manual_seed(1)
    return RawCrops(torch.rand(4, 2, 24, 16, 16, generator=generator), torch.rand(4, 2, 16, 8, 8, generator=generator))


CASES = {
    "2D": (partial(PCRLv2, encoder_weights=None), Views2d(global_size=32, local_size=32, n_local=2), raw_images),
    "3D": (NarrowPCRLv23d, Views3d(), raw_crops),
}


def run_step(dim):
    """Loss terms, gradients and target of one step, the same each time but for what PCRL_PLAIN does."""
    build, make_views, raw = CASES[dim]
    torch.manual_seed(0)
    model = build().train()
    module = PretrainStep(model, Precision.choose(CPU, amp=False), torch.contiguous_format)
    task = PretrainTask(module, make_views, n_stages=len(model.stages), epochs=2, peak_lr=0.1, seed=3)
    output = task.step(raw(), 0, 0)
    output.total.backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return output.numbers, gradients, task.views(raw(), 0, 0)


@pytest.fixture
def small(monkeypatch):
    """A third of the 2D network; features of any size pay for the common kernel."""
    monkeypatch.setitem(smp.encoders.encoders["resnet18"]["params"], "layers", [1, 1, 1, 1])
    monkeypatch.setattr("models.pcrlv2_model.DECODER_CHANNELS", (32, 32, 16, 16, 16))
    for name in ("POSITIONS_PER_CHANNEL", "POSITIONS"):
        monkeypatch.setattr(upsampling, name, 0)


def count_tricks(monkeypatch):
    """How often each trick is used from now on."""
    used = {}
    for module, name in TRICKS:
        real = getattr(module, name)

        def counted(*args, real=real, name=name, **kwargs):
            used[name] = used.get(name, 0) + 1
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)
    return used


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("dim", CASES)
def test_a_step_is_the_same_with_and_without_tricks(monkeypatch, dim):
    """Views to the number in 2D and to rounding in 3D; terms to a hundred-thousandth, gradients to a thousandth."""
    used = count_tricks(monkeypatch)
    numbers, gradients, views = run_step(dim)
    assert {"2D": "blur_by_boxes", "3D": "common_kernel"}[dim] in used
    used.clear()
    monkeypatch.setenv("PCRL_PLAIN", "1")
    plain_numbers, plain_gradients, plain_views = run_step(dim)
    assert not used, "PCRL_PLAIN=1 leaves no trick on"
    for ours, expected in zip(views, plain_views, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0 if dim == "2D" else 1e-4)
    assert numbers.keys() == plain_numbers.keys()
    for name, value in numbers.items():
        assert value.item() == pytest.approx(plain_numbers[name].item(), rel=1e-5, abs=1e-5), name
    assert (gradients - plain_gradients).norm() < 1e-3 * plain_gradients.norm()


def test_png_and_chunks_are_plain_too(tmp_path, monkeypatch):
    Image.fromarray(raw_images().pixels[0, 0].numpy()).save(tmp_path / "x.png")
    volumes = torch.zeros(5, 64, 64, 32)
    quick = read_grey(tmp_path / "x.png")
    assert not isinstance(png.inflated(tmp_path / "x.png"), type(tmp_path)) and len(chunks(volumes)) == 5
    monkeypatch.setenv("PCRL_PLAIN", "1")
    assert png.inflated(tmp_path / "x.png") == tmp_path / "x.png" and len(chunks(volumes)) == 1
    assert np.array_equal(read_grey(tmp_path / "x.png"), quick)


def test_nothing_and_0_leave_tricks_on(monkeypatch):
    monkeypatch.delenv("PCRL_PLAIN", raising=False)
    assert not plain()
    for value, expected in {"": False, "0": False, "1": True, "yes": True}.items():
        monkeypatch.setenv("PCRL_PLAIN", value)
        assert plain() == expected
