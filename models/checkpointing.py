"""Compute activations again in the backward pass instead of keeping them: less memory for a third more arithmetic.

Gradients, weights and BatchNorm statistics are the same to the bit. Of each block of the encoder and each stage of the
decoder the input alone is kept.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock

from models.pcrlv2_model_3d import DownTransition
from models.stages import DecoderStage

COUNTER = "num_batches_tracked"


def checkpoint_activations(model: nn.Module) -> None:
    """Change the blocks of a network, in place; names and values of its parameters stay.

    The class of each block is replaced by a subclass, which the replicas of DataParallel keep, as they would not keep a
    replaced method.
    """
    for module in model.modules():
        if isinstance(module, DecoderStage):
            module.__class__ = _subclass(type(module), RecomputedStage)
        elif isinstance(module, DownTransition | BasicBlock):
            module.__class__ = _subclass(type(module), RecomputedBlock)


def _subclass(kind: Any, first: Any) -> Any:
    return type(f"{first.__name__}{kind.__name__}", (first, kind), {})


class RecomputedBlock(nn.Module):
    """A block whose activations are computed again."""

    def forward(self, x: Tensor) -> Any:
        return _recomputed(self, super().forward, x)


class RecomputedStage(DecoderStage):
    """A stage whose features and restoration are computed again."""

    def decode(self, features: Tensor) -> Tensor:
        return _recomputed(self, super().decode, features)

    def restore(self, features: Tensor, size: Iterable[int]) -> Tensor:
        return _recomputed(self, super().restore, features, size)


def _recomputed(module: nn.Module, function: Callable[..., Any], *inputs: Any) -> Any:
    # The blocks draw no random numbers.
    return checkpoint(
        function, *inputs, use_reentrant=False, preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), statistics_kept(module)),
    )  # fmt: skip


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of all BatchNorm layers in a forward pass that has been done before."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm._buffers[COUNTER] = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, before, strict=True):
            norm.momentum, norm._buffers[COUNTER] = momentum, counter
