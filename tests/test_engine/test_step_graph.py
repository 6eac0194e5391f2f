"""Steps that are recorded once and repeated train as steps do; whatever differs between them is in tensors."""

import copy

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.guard import LARGEST_LOSS_AFTER_EPOCH
from engine.optimizers import build_optimizer
from engine.pretrain import PretrainTask
from engine.step_graph import STEPS_BEFORE, GraphedSteps, check_graph
from engine.trainer import Trainer
from tests.test_engine.test_pretrain import CPU, N_LOCAL, make_step
from tests.toys import make_trainer
from utils.errors import UsageError
from utils.records import Views
from utils.seeding import torch_generator


def tensors_in(tree):
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


class Recording(TorchDispatchMode):
    """Records operations, and repeats them in the memory that they had: what a CUDA graph does."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, result))
        return result

    def replay(self):
        with torch.no_grad():
            for function, args, kwargs, results in self.operations:
                operands = {x.untyped_storage().data_ptr() for x in tensors_in((args, kwargs))}
                is_view = all(x.untyped_storage().data_ptr() in operands for x in tensors_in(results))
                if is_view and not function._schema.is_mutable:
                    continue
                for old, new in zip(tensors_in(results), tensors_in(function(*args, **kwargs)), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class CpuRecorder:
    def __init__(self):
        self.rehearsed = self.recorded = self.replayed = 0

    def rehearse(self, work):
        self.rehearsed += 1
        return work()

    def record(self, work, generator):
        """Recording has a first effect here, and has none on CUDA."""
        self.recorded += 1
        with Recording() as recording:
            numbers = work()
        fresh = [True]

        def replay():
            if not fresh.pop():
                recording.replay()
                self.replayed += 1
            fresh.append(False)
            return numbers

        return replay


def make_views(raw, generator):
    """Views with noise drawn from the generator."""
    first, second, target, local = raw
    return Views(first + torch.randn(first.shape, generator=generator, dtype=first.dtype), second, target, local)


def batch_of(step, batch=8, sides=(6, 8)):
    g = torch_generator("raw", step)
    globals_ = [torch.randn(batch, 1, *sides, generator=g) for _ in range(3)]
    return Views(*globals_, torch.randn(batch, N_LOCAL, 1, 4, 4, generator=g))


def trainer_of(folder, optimizer_name="sgd", recorder=None):
    task = PretrainTask(make_step().float(), make_views, n_stages=2, epochs=240, peak_lr=0.1, seed=3)
    # Exact in float32, as which a tensor holds it.
    task.learning_rate = lambda epoch, done: 2.0 ** -(6 + epoch % 3)
    optimizer = build_optimizer(optimizer_name, task.module.parameters(), lr=0.5, momentum=0.9, weight_decay=1e-2)
    like = make_trainer(folder)
    return Trainer(
        task, optimizer=optimizer, loader=like.loader, device=CPU, precision=like.precision, recorder=like.recorder,
        run_state=like.run_state, world=like.world, epochs=1, seed=1,
        graphed_steps=GraphedSteps(task, optimizer, CPU, recorder) if recorder else None,
    )  # fmt: skip


def train(trainer, steps, *, spoilt=()):
    trainer.task.module.train()
    for epoch, step in steps:
        raw = batch_of(1000 * epoch + step, sides=(6, 10) if step == 5 else (6, 8))
        if (epoch, step) in spoilt:
            raw = raw._replace(target=raw.target * 40)
        trainer.set_rate(epoch, 1.0)
        trainer.train_step(raw, epoch, step)


EPOCHS = (0, 1, LARGEST_LOSS_AFTER_EPOCH, LARGEST_LOSS_AFTER_EPOCH + 1)
STEPS = [(epoch, step) for epoch in EPOCHS for step in range(7)]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_recorded_steps_train_as_steps_do(tmp_path, optimizer):
    recorder = CpuRecorder()
    eager, graphed = trainer_of(tmp_path, optimizer), trainer_of(tmp_path, optimizer, recorder)
    spoilt = [(EPOCHS[-1], 3), (EPOCHS[1], 3)]
    for trainer in (eager, graphed):
        train(trainer, STEPS, spoilt=spoilt)
    # Of 28 steps, 4 are of another shape.
    assert (recorder.rehearsed, recorder.recorded) == (
        STEPS_BEFORE,
        2,
    ) and recorder.replayed == 28 - 4 - STEPS_BEFORE - 2
    for (name, a), b in zip(
        eager.task.module.state_dict().items(), graphed.task.module.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    for a, b in zip(eager.optimizer.state.values(), graphed.optimizer.state.values(), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert torch.equal(eager.guard.norms.nan_to_num(-1), graphed.guard.norms.nan_to_num(-1))
    assert eager.guard.read() == graphed.guard.read() == (1, False), "only after epoch 10 is a large loss a bad step"
    assert eager.epoch_meter.read() == graphed.epoch_meter.read() and eager.epoch_meter.read_steps() == (27, 1)


def test_a_run_with_a_graph_is_resumed_without_one(tmp_path):
    graphed = trainer_of(tmp_path, recorder=CpuRecorder())
    train(graphed, STEPS[:5])
    state = {**graphed.state_dict(), "position": (1, 0)}
    assert isinstance(state["optimizer"]["param_groups"][0]["lr"], Tensor)
    again = {
        name: trainer_of(tmp_path, recorder=CpuRecorder() if name == "graph" else None) for name in ("graph", "none")
    }
    for trainer in again.values():
        trainer.load_state_dict(copy.deepcopy(state))
        train(trainer, STEPS[7:12])
    assert again["none"].optimizer.param_groups[0]["lr"] == 2.0**-7
    weights = [trainer.task.module.state_dict() for trainer in again.values()]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(("devices", "dtype", "processes", "complaint"), [
    (["cpu"], torch.float32, 1, "expected a CUDA GPU, this run is on cpu"),
    (["cuda:0", "cuda:1"], torch.float32, 1, "expected one GPU, got 2"),
    (["cuda:0"], torch.bfloat16, 4, "expected one GPU, got 4"),
    (["cuda:0"], torch.float16, 1, "expected float32 or bf16"),
])  # fmt: skip
def test_what_a_graph_cannot_do_is_refused_in_one_line(devices, dtype, processes, complaint):
    with pytest.raises(UsageError, match=f"--graph: {complaint}") as caught:
        check_graph([torch.device(name) for name in devices], dtype, processes)
    assert "\n" not in str(caught.value)
    check_graph([torch.device("cuda:0")], torch.bfloat16, 1)
