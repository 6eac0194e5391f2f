"""Skips and counts steps whose loss or gradients are not finite or explode; they change neither model nor optimizer."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from utils.constants import constant
from utils.distributed import all_reduce_max_

# The published rule for 3D: after epoch 10, a step with a loss above 1000 is skipped. Applied in 2D as well.
LARGEST_LOSS, LARGEST_LOSS_AFTER_EPOCH = 1000.0, 10
# After this many bad steps in a row the run has diverged, and ends.
LONGEST_STREAK = 20
# A gradient norm above this multiple of the running median is bad. Norms of one data set vary by a factor of about 10.
LARGEST_JUMP = 100.0
# Lower bound of the median. When a network fits nearly all its data, the median is near 0, and a hard batch with a much
# larger gradient is useful. With this bound, norms up to 100 are accepted: at usual learning rates such a step changes
# the weights, whose norm is about 50, by a small fraction.
SMALLEST_MEDIAN = 1.0
# Number of good steps that the median is taken over, and the number from which on the median is used.
MEDIAN_STEPS, MIN_STEPS = 64, 8
# Before that, a norm is bad above this multiple of max(loss, 1). BatchNorm of two samples gives norms above 1e4.
LARGEST_AT_FIRST = 1e6


class StepCheck(NamedTuple):
    """The guard's result for a step, on the device."""

    bad: Tensor
    """0-dim float, 1 for a bad step, else 0."""
    gradient_norm: Tensor
    """0-dim, the L2 norm over all parameters; infinite where the gradients are not finite."""


class StepGuard:
    """Checks each step on the device, without synchronising with the host.

    A bad step is passed to the fused optimizer as ``found_inf``, which makes it skip the update of parameters and
    state; the BatchNorm statistics are restored to those before the step. All tensors of the guard are on ``device``:

    - ``counts``: skipped steps, the current and the longest run of skipped steps in a row, float32;
    - ``norms``: gradient norms (L2, without loss scale) of the last 64 good steps, float64, NaN for steps to come;
    - ``good_buffers``: copies of all floating-point buffers after the last step that was not bad, flattened.

    Args:
        module: its floating-point buffers are protected.
        optimizer: a fused optimizer; its parameters' gradients are checked.
        device: of the module.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.optimizer = optimizer
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.buffers = [b for b in module.buffers() if b.is_floating_point()]
        self.counts = torch.zeros(3, device=device)
        self.norms = torch.full((MEDIAN_STEPS,), torch.nan, dtype=torch.float64, device=device)
        self.save_buffers()

    def state_dict(self) -> dict[str, Tensor]:
        return {"counts": self.counts, "norms": self.norms}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        device = self.counts.device
        self.counts, self.norms = state["counts"].to(device), state["norms"].to(device)
        self.save_buffers()

    def save_buffers(self) -> None:
        """Copy the current buffers as those to restore after a bad step."""
        self.good_buffers = self._flat_buffers()

    def _flat_buffers(self) -> Tensor:
        return torch.cat([b.flatten() for b in self.buffers]) if self.buffers else self.counts.new_zeros(0)

    @torch.no_grad()
    def check(self, total: Tensor, epoch: int, loss_scale: Tensor | None = None) -> StepCheck:
        """Check the loss and the gradients of a step; a step is bad on all processes or on none.

        Does not synchronise with the host. Buffers, counts and norms are updated.

        Args:
            total: the loss without loss scale, 0-dim, on the device.
            epoch: the published limit of the loss holds after epoch 10.
            loss_scale: 0-dim, on the device: the factor of the gradients under fp16. The scaler then skips steps with
                gradients that are not finite as part of its search for a scale; they are not counted as bad.
        """
        norm = self.gradient_norm(loss_scale)
        # One exchange between processes for both. NaN becomes infinite, since a maximum of NaN is not defined.
        found = torch.stack([total.detach().to(norm.dtype), norm]).abs_().nan_to_num_(torch.inf, torch.inf)
        loss, norm = all_reduce_max_(found).unbind()
        largest = LARGEST_LOSS if epoch > LARGEST_LOSS_AFTER_EPOCH else torch.finfo(loss.dtype).max
        bad_norm = norm > self.largest_norm(loss)
        ignored = is_bad = (loss > largest) | bad_norm
        if loss_scale is not None:
            overflow = norm.isinf()
            is_bad = (loss > largest) | (bad_norm & ~overflow)
            ignored = is_bad | overflow
        torch.where(ignored, self.norms, torch.cat([self.norms[1:], norm.double()[None]]), out=self.norms)
        self._restore_buffers(is_bad)
        self._count(is_bad)
        bad = is_bad.float()
        self.optimizer.found_inf = bad  # type: ignore[attr-defined]
        return StepCheck(bad, norm)

    def gradient_norm(self, loss_scale: Tensor | None) -> Tensor:
        """L2 norm of all gradients without loss scale, 0-dim; infinite or NaN if any gradient is."""
        # In float32 the square of 1e20 overflows, which would be taken for an overflow of fp16. Without fp16 float64 is
        # not used, since a CPU then takes 40 times as long.
        dtype = None if loss_scale is None else torch.float64
        norms = torch._foreach_norm([p.grad for p in self.parameters], 2, dtype)
        norm = torch.linalg.vector_norm(torch.stack(norms))
        return norm if loss_scale is None else norm / loss_scale

    def largest_norm(self, loss: Tensor) -> Tensor:
        """The gradient norm above which a step with this loss is bad; 0-dim."""
        # Over a dimension, since the median of all numbers makes the host wait for a GPU.
        running = self.norms.nanmedian(dim=0).values.clamp(min=SMALLEST_MEDIAN) * LARGEST_JUMP
        # The latest norm is the last one, so that this one is known from MIN_STEPS good steps on.
        too_few = self.norms[-MIN_STEPS].isnan()
        return torch.where(too_few, loss.clamp(min=1) * LARGEST_AT_FIRST, running)

    def _restore_buffers(self, bad: Tensor) -> None:
        if self.buffers:
            torch.where(bad, self.good_buffers, self._flat_buffers(), out=self.good_buffers)
            parts = self.good_buffers.split([b.numel() for b in self.buffers])
            torch._foreach_copy_(self.buffers, [p.view_as(b) for p, b in zip(parts, self.buffers, strict=True)])

    def _count(self, bad: Tensor) -> None:
        after_bad = self.counts + constant([1, 1, 0], self.counts.device)
        after_good = self.counts * constant([1, 0, 1], self.counts.device)
        torch.where(bad, after_bad, after_good, out=self.counts)
        _, streak, longest = self.counts.unbind()
        torch.maximum(longest, streak, out=longest)

    def read(self) -> tuple[int, bool]:
        """(number of steps skipped so far, whether too many were skipped in a row). Synchronises with the host."""
        skipped, _, longest = (int(n) for n in self.counts.tolist())
        return skipped, longest >= LONGEST_STREAK

    def reset_streak(self) -> None:
        """Set the count of bad steps in a row to 0; the total count is not changed."""
        self.counts[1:] = 0
