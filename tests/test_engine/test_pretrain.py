"""Pre-training as a task: one module call a step, the same gradients on one process and on two."""

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from engine.parallel import parallelize
from engine.precision import Precision
from engine.pretrain import PretrainStep, PretrainTask
from losses.pcrlv2 import draw_stages
from models.stages import DecoderStage, run_stages
from utils.distributed import destroy_process_group, init_process_group
from utils.records import LossTerms, LossWeights, Output, Views
from utils.schedules import learning_rate, restoration_weight
from utils.seeding import torch_generator
from utils.world import World

CPU = torch.device("cpu")
N_LOCAL = 3


class Stage(DecoderStage):
    def __init__(self, channels, out):
        super().__init__(out, "bilinear")
        self.conv = nn.Sequential(nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU())
        self.deep_supervision_head = nn.Conv2d(out, 1, 1)

    def decode(self, features):
        return self.conv(features)


class SmallNet(nn.Module):
    """The shape of the real networks, in a few hundred parameters."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([Stage(1, 6), Stage(6, 4)])
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x, restore=True) -> Output:
        features, output = run_stages(self.stages, x, size=x.shape[2:], restore=restore)
        return output._replace(restoration=self.head(features)) if restore else output


def make_step(seed=3):
    torch.manual_seed(seed)
    return PretrainStep(SmallNet().double(), Precision.choose(CPU, amp=False), torch.contiguous_format)


def make_views(batch=8, seed=5):
    g = torch.Generator().manual_seed(seed)
    globals_ = [torch.randn(batch, 1, 6, 8, generator=g, dtype=torch.float64) for _ in range(3)]
    return Views(*globals_, torch.randn(batch, N_LOCAL, 1, 4, 4, generator=g, dtype=torch.float64))


STAGES = [1, 0, 1, 1, 0, 0, 0]


def run_rank(rank, port_file, results):
    world = World(rank, 2, rank)
    import os

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port_file, RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    init_process_group(world, CPU)
    module = parallelize(make_step(), [CPU], world)
    views = Views(*(field.chunk(2)[rank] for field in make_views()))
    result = module(views, STAGES, 0.7)
    result.terms.total.mean().backward()
    gradients = {n: p.grad for n, p in module.module.named_parameters()}
    torch.save({"total": result.terms.total.detach(), "gradients": gradients}, f"{results}/{rank}.pt")
    destroy_process_group()


def test_two_processes_agree_with_the_average_of_two_halves(tmp_path):
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    mp.spawn(run_rank, (port, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    step = make_step()
    total = 0
    for half in range(2):
        views = Views(*(field.chunk(2)[half] for field in make_views()))
        result = make_step()(views, STAGES, 0.7)
        torch.testing.assert_close(result.terms.total, ranks[half]["total"], rtol=1e-12, atol=0)
        total = total + step(views, STAGES, 0.7).terms.total.mean() / 2
    total.backward()
    for name, parameter in step.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for rank in ranks:
            found = rank["gradients"][name]
            found = torch.zeros_like(parameter) if found is None else found
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_locals_go_in_as_one_batch_with_view_0_first():
    step, views = make_step(), make_views(batch=3)
    seen = []
    step.model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    step(views, STAGES, 1.0)
    assert [len(x) for x in seen] == [3, 3, 3 * N_LOCAL]
    assert torch.equal(seen[2][:3], views.local[:, 0]) and torch.equal(seen[2][6:], views.local[:, 2])


@pytest.mark.parametrize(
    ("weights", "batches", "counted"),
    [
        ((1, 1, 0, 0), [3], ("restoration", "intermediate_restoration")),
        ((1, 1, 1, 0), [3, 3], ("restoration", "intermediate_restoration", "global_similarity")),
        ((0, 0, 0, 1), [3, 3, 3 * N_LOCAL], ("local_similarity",)),
    ],
)
def test_passes_that_only_terms_of_weight_0_need_are_not_run(weights, batches, counted):
    step, views, seen = make_step(), make_views(batch=3), []
    whole = step(views, STAGES, 0.7).terms
    step = make_step()
    step.weights = LossWeights(*weights)
    step.model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    terms = step(views, STAGES, 0.7).terms
    assert seen == batches
    for name in counted:
        assert torch.equal(getattr(terms, name), getattr(whole, name))
    torch.testing.assert_close(terms.total, sum(getattr(whole, name) for name in counted), rtol=1e-12, atol=0)


def test_the_learning_rate_of_a_step_has_a_warm_up():
    task = PretrainTask(make_step(), None, n_stages=2, epochs=4, peak_lr=0.1, warmup_epochs=1.5, seed=0)
    assert task.learning_rate(0, 0.3) == pytest.approx(0.1 * 0.3 / 1.5)
    assert task.learning_rate(1, 0.25) == pytest.approx(learning_rate(1, 4, 0.1) * 1.25 / 1.5)
    assert task.learning_rate(1, 0.5) == learning_rate(1, 4, 0.1) == task.learning_rate(1, 1.0)


def test_views_and_stages_of_a_step_are_functions_of_seed_epoch_step_and_rank():
    def views_of(raw, generator):
        (x,) = raw
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return make_views()._replace(global1=x + noise)

    def task(rank=0, seed=1):
        return PretrainTask(make_step(), views_of, n_stages=2, epochs=2, peak_lr=0.1, seed=seed, rank=rank)

    raw = (make_views().global1,)
    first = task().step(raw, 1, 2)
    assert torch.equal(first.total, task().step(raw, 1, 2).total)
    others = [
        task().step(raw, 1, 3),
        task().step(raw, 0, 2),
        task(seed=2).step(raw, 1, 2),
        task(rank=1).step(raw, 1, 2),
    ]
    assert all(not torch.equal(first.total, other.total) for other in others)
    assert set(first.numbers) == {*LossTerms._fields, "projection_spread"}
    stages = draw_stages(2, N_LOCAL, torch_generator(1, "stages", 1, 2))
    generator = torch_generator(1, "views", 1, 2, 0)
    again = make_step()(views_of(raw, generator), stages, restoration_weight(1))
    assert torch.equal(again.terms.total[0], first.total)


def test_bf16_gives_float32_terms_close_to_float32():
    views = Views(*(field.float() for field in make_views()))
    torch.manual_seed(3)
    model = SmallNet()
    full = PretrainStep(model, Precision.choose(CPU, amp=False), torch.channels_last)(views, STAGES, 0.7)
    bf16 = Precision(CPU, torch.bfloat16, torch.amp.GradScaler("cpu", enabled=False))
    half = PretrainStep(model, bf16, torch.channels_last)(views, STAGES, 0.7)
    assert half.terms.total.dtype == torch.float32
    torch.testing.assert_close(half.terms.total, full.terms.total, rtol=0.05, atol=0.05)
    assert not torch.equal(half.terms.total, full.terms.total)


def test_amp_on_a_cpu_is_bf16_where_it_has_that_and_float32_elsewhere(monkeypatch, capsys):
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has, "amx_fp16": True})
        assert Precision.choose(CPU, amp=True).dtype == dtype
        assert ("no bf16" in capsys.readouterr().err) == (not has)
    assert Precision.choose(CPU, amp=True, verbose=False).dtype == torch.float32
    assert capsys.readouterr().err == "", "only the main process prints"
    assert Precision.choose(CPU, amp=False).dtype == torch.float32
