"""Steps of pre-training as a CUDA graph: views, passes, loss, gradients, guard and update are one launch.

A graph repeats the operations that were recorded, in the same memory. So whatever differs between steps is in tensors
that stay: the raw batch, the drawn stages, β and the learning rate; and the random generator is known to the graph.
Where the host would choose among stages, all are computed and the device chooses, with the same result.

What needs a GPU is :class:`CudaRecorder`, which only ``tests/test_gpu.py`` runs, where there is one. All else is tested
with a recorder that repeats operations on a CPU.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.guard import LARGEST_LOSS_AFTER_EPOCH
from engine.meters import StepNumbers
from engine.pretrain import PretrainTask
from losses.pcrlv2 import stage_tensor
from utils.errors import UsageError
from utils.records import StepOutput
from utils.schedules import restoration_weight

Work = Callable[[], StepNumbers]
RunStep = Callable[[Callable[[], StepOutput], int], StepNumbers]
"""``Trainer.run_step``."""

# Steps before the first recording: libraries choose their kernels and constants are made.
STEPS_BEFORE = 3


def check_graph(devices: Sequence[torch.device], dtype: torch.dtype, processes: int) -> None:
    """Require what ``--graph`` needs: one GPU, and a number format whose scale does not depend on the host.

    Raises:
        UsageError: of these is missing.
    """
    if devices[0].type != "cuda":
        raise UsageError(f"--graph: expected a CUDA GPU, this run is on {devices[0]}; leave --graph out")
    if len(devices) > 1 or processes > 1:
        raise UsageError(
            f"--graph: expected one GPU, got {max(len(devices), processes)}; choose one by --gpus, or leave --graph out"
        )
    if dtype == torch.float16:
        raise UsageError("--graph: expected float32 or bf16, this GPU has only fp16 for --amp; leave one of them out")


class Recorder(Protocol):
    """Makes a function of operations on the device that can be repeated as one."""

    def rehearse(self, work: Work) -> StepNumbers:
        """Run ``work`` as it will be recorded."""

    def record(self, work: Work, generator: torch.Generator) -> Work:
        """Record ``work``, which draws from ``generator``; returns a function that repeats it."""


class CudaRecorder:
    """Records as CUDA graphs."""

    def rehearse(self, work: Work) -> StepNumbers:
        # Not on the default stream, which nothing recorded may depend on.
        stream, default = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(default)
        with torch.cuda.stream(stream):
            numbers = work()
        default.wait_stream(stream)
        return numbers

    def record(self, work: Work, generator: torch.Generator) -> Work:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(generator)
        # Of this thread alone, since the loader's thread allocates pinned memory meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            numbers = work()

        def replay() -> StepNumbers:
            graph.replay()
            return numbers

        return replay


class GraphedSteps:
    """Trains a step as ``Trainer.train_step`` does, by a graph from the fourth step on.

    Batches of another shape than the first one are trained without the graph. After epoch 10, when the guard's limit of
    the loss begins to hold, the step is recorded again.

    Args:
        task: pre-training on one device.
        optimizer: its learning rates become tensors, in which ``Trainer.set_rate`` writes.
        device: of the network.
        recorder: the others are for tests.
    """

    def __init__(
        self, task: PretrainTask, optimizer: torch.optim.Optimizer, device: torch.device,
        recorder: Recorder | None = None,
    ) -> None:  # fmt: skip
        self.task, self.optimizer, self.recorder = task, optimizer, recorder or CudaRecorder()
        self.generator = torch.Generator(device)
        self.beta = torch.zeros((), device=device)
        self.raw: tuple[Tensor, ...] | None = None
        self.stages = torch.zeros(0, dtype=torch.int64, device=device)
        self.replay: Work | None = None
        self.limited, self.steps = False, 0

    def __call__(self, raw: Any, epoch: int, step: int, run_step: RunStep) -> StepNumbers:
        """Train one step; ``raw`` is on the device."""
        if self.raw is None:
            self._allocate(raw, epoch, step)
        self.generator.manual_seed(self.task.views_seed(epoch, step))
        stages = self.task.stages(len(self.stages) // 2, epoch, step)
        self.stages.copy_(stage_tensor(stages, self.task.n_stages, self.stages.device))
        self.beta.fill_(restoration_weight(epoch))
        assert self.raw is not None
        if [field.shape for field in raw] != [field.shape for field in self.raw]:
            return run_step(lambda: self._output(raw), epoch)
        torch._foreach_copy_(list(self.raw), list(raw))
        return self._run(lambda: run_step(lambda: self._output(self.raw), epoch), epoch)

    def _allocate(self, raw: Any, epoch: int, step: int) -> None:
        """Make the tensors that stay. The number of local views is known once they have been made."""
        self.raw = type(raw)(*(field.clone() for field in raw))
        n_local = self.task.views(raw, epoch, step).local.shape[1]
        self.stages = self.stages.new_zeros(1 + 2 * n_local)
        for group in self.optimizer.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=self.stages.device)
            if "capturable" in group:
                group["capturable"] = True

    def _run(self, work: Work, epoch: int) -> StepNumbers:
        """Run a step on the tensors that stay, by a graph if it is time."""
        self.steps += 1
        if self.steps <= STEPS_BEFORE:
            return self.recorder.rehearse(work)
        limited = epoch > LARGEST_LOSS_AFTER_EPOCH
        if self.replay is None or limited != self.limited:
            # Freed first, since two graphs would need the memory of two.
            self.replay = None
            self.replay, self.limited = self.recorder.record(work, self.generator), limited
        return self.replay()

    def _output(self, raw: Any) -> StepOutput:
        with torch.no_grad():
            views = self.task.make_views(raw, self.generator)
        return self.task.output(views, self.stages, self.beta)
