"""Steps whose loss or gradients are not finite, or explode, leave no trace in the model and are counted."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from utils.distributed import all_reduce_max_

# The published rule: after epoch 10, a step with a loss above 1000 is skipped. Ours holds it in 2D too.
LARGEST_LOSS, LARGEST_LOSS_AFTER_EPOCH = 1000.0, 10
# So many bad steps in a row are no accident: the run ends.
LONGEST_STREAK = 20
# A gradient so many times the running median is no gradient: batches of one data set differ by about ten.
LARGEST_JUMP = 100.0
# Of networks that have nearly learnt their data the median is near 0, and the one hard batch is the one that teaches.
# A gradient of norm 100 moves the weights, whose norm is about 50, by a small share of it at any usual learning rate.
SMALLEST_MEDIAN = 1.0
# Good steps that the median is taken of, and from how many on it counts.
REMEMBERED, ENOUGH = 64, 8
# Until then, the largest norm for each unit of the loss, which is taken for at least 1.
LARGEST_AT_FIRST = 1e4


class Verdict(NamedTuple):
    """What the guard finds of a step, on the device."""

    bad: Tensor
    """0-dim float, 1 for bad."""
    gradient_norm: Tensor
    """0-dim, the L2 norm over all parameters; infinite where the gradients are not finite."""


class StepGuard:
    """Checks each step on the device, without synchronising with the host.

    A bad step reaches the fused optimizer as ``found_inf``, on which it leaves parameters and state alone, and the
    BatchNorm statistics that its forward pass has spoilt are put back.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.optimizer = optimizer
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.buffers = [b for b in module.buffers() if b.is_floating_point()]
        self.counts = torch.zeros(3, device=device)
        self.norms = torch.full((REMEMBERED,), torch.nan, dtype=torch.float64, device=device)
        self.remember()

    def state_dict(self) -> dict[str, Tensor]:
        return {"counts": self.counts, "norms": self.norms}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        device = self.counts.device
        self.counts, self.norms = state["counts"].to(device), state["norms"].to(device)
        self.remember()

    def remember(self) -> None:
        """Take the buffers as they are for good ones."""
        self.good_buffers = self._flat_buffers()

    def _flat_buffers(self) -> Tensor:
        return torch.cat([b.flatten() for b in self.buffers]) if self.buffers else self.counts.new_zeros(0)

    @torch.no_grad()
    def check(self, total: Tensor, epoch: int, loss_scale: Tensor | None = None) -> Verdict:
        """Find whether the step is bad, on all processes alike.

        Args:
            total: the loss, not scaled.
            epoch: the published rule on the loss depends on it.
            loss_scale: what the gradients are multiplied by, under fp16. Gradients that are not finite are then the
                scaler's to find and to skip, which is part of its search for a scale and no bad step.
        """
        largest = LARGEST_LOSS if epoch > LARGEST_LOSS_AFTER_EPOCH else torch.inf
        loss = total.detach()
        bad_loss = ~(loss.abs() <= largest) | ~loss.isfinite()
        # One exchange for all three; a maximum of NaN is not defined.
        found = torch.stack([bad_loss.double(), loss.double().abs(), self.gradient_norm(loss_scale)])
        bad_loss, loss, norm = all_reduce_max_(found.nan_to_num(torch.inf, torch.inf)).unbind()
        absurd = ~(norm <= self.largest_norm(loss))
        if loss_scale is not None:
            absurd = absurd & norm.isfinite()
        bad = torch.maximum(bad_loss, absurd.double()).float()
        kept = bad.bool() | ~norm.isfinite()
        self.norms = torch.where(kept, self.norms, torch.cat([self.norms[1:], norm[None]]))
        self._keep_buffers(bad)
        self._count(bad)
        self.optimizer.found_inf = bad  # type: ignore[attr-defined]
        return Verdict(bad, norm)

    def gradient_norm(self, loss_scale: Tensor | None) -> Tensor:
        """L2 norm of all gradients, float64; infinite or NaN where one of them is."""
        # In float32 the squares of 1e20 are infinite already, which must not pass for an overflow of fp16; in float64
        # a CPU takes forty times as long.
        dtype = None if loss_scale is None else torch.float64
        norms = torch._foreach_norm([p.grad for p in self.parameters], 2, dtype)
        norm = torch.linalg.vector_norm(torch.stack(norms).double())
        return norm if loss_scale is None else norm / loss_scale

    def largest_norm(self, loss: Tensor) -> Tensor:
        """The norm above which the gradients of a step of this loss are absurd; 0-dim."""
        known = self.norms.isfinite().sum()
        running = LARGEST_JUMP * self.norms.nanmedian().clamp(min=SMALLEST_MEDIAN)
        return torch.where(known >= ENOUGH, running, LARGEST_AT_FIRST * loss.clamp(min=1))

    def _keep_buffers(self, bad: Tensor) -> None:
        if self.buffers:
            kept = torch.where(bad.bool(), self.good_buffers, self._flat_buffers())
            parts = kept.split([b.numel() for b in self.buffers])
            torch._foreach_copy_(self.buffers, [p.view_as(b) for p, b in zip(parts, self.buffers, strict=True)])
            self.good_buffers = kept

    def _count(self, bad: Tensor) -> None:
        skipped, streak, longest = self.counts.unbind()
        streak = (streak + 1) * bad
        self.counts = torch.stack([skipped + bad, streak, torch.maximum(longest, streak)])

    def read(self) -> tuple[int, bool]:
        """(steps skipped so far, whether too many were skipped in a row). Synchronises with the host."""
        skipped, _, longest = (int(n) for n in self.counts.tolist())
        return skipped, longest >= LONGEST_STREAK

    def reset_streak(self) -> None:
        """Start counting bad steps in a row anew; the count of all of them stays."""
        self.counts[1:] = 0
