"""Steps whose loss is not finite, or explodes, leave no trace in the model and are counted."""

import torch
from torch import Tensor, nn

from utils.distributed import all_reduce_max_

# The published rule: after epoch 10, a step with a loss above 1000 is skipped. Ours holds it in 2D too.
LARGEST_LOSS, LARGEST_LOSS_AFTER_EPOCH = 1000.0, 10
# So many bad steps in a row are no accident: the run ends.
LONGEST_STREAK = 20


class StepGuard:
    """Judges each step on the device, without synchronising with the host.

    A bad step reaches the fused optimizer as ``found_inf``, on which it leaves parameters and state alone, and the
    BatchNorm statistics that its forward pass has spoilt are put back.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.optimizer = optimizer
        self.buffers = [b for b in module.buffers() if b.is_floating_point()]
        self.counts = torch.zeros(3, device=device)
        self.remember()

    def remember(self) -> None:
        """Take the buffers as they are for good ones."""
        self.good_buffers = self._flat_buffers()

    def _flat_buffers(self) -> Tensor:
        return torch.cat([b.flatten() for b in self.buffers]) if self.buffers else self.counts.new_zeros(0)

    @torch.no_grad()
    def judge(self, total: Tensor, epoch: int) -> Tensor:
        """Mark the step as bad or good, on all processes alike; returns 0-dim float, 1 for bad."""
        largest = LARGEST_LOSS if epoch > LARGEST_LOSS_AFTER_EPOCH else torch.inf
        bad = all_reduce_max_((~(total.detach().abs() <= largest) | ~total.detach().isfinite()).float())
        self._keep_buffers(bad)
        skipped, streak, longest = self.counts.unbind()
        streak = (streak + 1) * bad
        self.counts = torch.stack([skipped + bad, streak, torch.maximum(longest, streak)])
        self.optimizer.found_inf = bad  # type: ignore[attr-defined]
        return bad

    def _keep_buffers(self, bad: Tensor) -> None:
        if self.buffers:
            kept = torch.where(bad.bool(), self.good_buffers, self._flat_buffers())
            parts = kept.split([b.numel() for b in self.buffers])
            torch._foreach_copy_(self.buffers, [p.view_as(b) for p, b in zip(parts, self.buffers, strict=True)])
            self.good_buffers = kept

    def read(self) -> tuple[int, bool]:
        """(steps skipped so far, whether too many were skipped in a row). Synchronises with the host."""
        skipped, _, longest = (int(n) for n in self.counts.tolist())
        return skipped, longest >= LONGEST_STREAK

    def forget_streak(self) -> None:
        """Start counting bad steps in a row anew; the count of all of them stays."""
        self.counts[1:] = 0
