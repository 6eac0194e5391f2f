"""Count the operations that a program dispatches to a device, without the device.

Tensors on PyTorch's ``meta`` device have a shape and no data. The program takes its GPU paths on them, forward and
backward, and every operation that would be launched on a GPU passes :class:`OperationCounter`.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOTS = (f"{Path(__file__).parents[2]}/", f"{Path(torch.__file__).parents[1]}/")
META = torch.device("meta")
aten = torch.ops.aten
# They allocate memory or give it another shape.
LAUNCH_NOTHING = {
    aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten._unsafe_view,
    aten._reshape_alias, aten.set_,
}  # fmt: skip
COPIES = {aten._to_copy, aten.copy_}
FROM_NUMBERS = {torch.tensor, torch.as_tensor, Tensor.new_tensor}
# The size of their result is known on the host only when the device has computed it.
WAIT = {aten._local_scalar_dense, aten.nonzero}
# On CUDA they read a number that they have computed (ATen/native/cuda/Sorting.cpp).
WAIT_WITHIN = {aten.nanmedian.default}


class Where(NamedTuple):
    """Where an operation comes from."""

    part: str
    line: str
    """The innermost line of the program, as FILE:LINE; in a backward pass that of the forward operation."""


class MixedDevices(RuntimeError):
    """An operation has operands on the device and on the host."""


class _TensorsOfNumbers(TorchFunctionMode):
    """Calls a function for each tensor that is made on ``meta`` from numbers, which PyTorch does not dispatch."""

    def __init__(self, report: Callable[[], None]) -> None:
        super().__init__()
        self.report = report

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in FROM_NUMBERS and result.device == META:
            self.report()
        return result


class OperationCounter(TorchDispatchMode):
    """Counts operations while it is active.

    Attributes:
        launched: number of operations on the device by place.
        copies: number of copies between host and device by place.
        waits: number of operations by place that the host has to wait for.

    Args:
        parts: the part of the program by the beginning of a file's path, relative to the project or to the folder of
            packages. The outermost matching call counts.
        rest: the part of operations without such a call.
    """

    def __init__(self, parts: Mapping[str, str], *, rest: str) -> None:
        super().__init__()
        self.parts, self.rest = parts, rest
        self.launched: Counter[Where] = Counter()
        self.copies: Counter[Where] = Counter()
        self.waits: Counter[Where] = Counter()
        self._of_node: dict[int, Where] = {}
        self._of_numbers = _TensorsOfNumbers(self._count_copy)

    def __enter__(self) -> "OperationCounter":
        self._of_numbers.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._of_numbers.__exit__(*error)

    def _count_copy(self) -> None:
        self.copies[self._of_stack(sys._getframe(2))] += 1

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        where, kind = self._where(), function.overloadpacket
        if kind in WAIT and args[0].device == META:
            self.waits[where] += 1
            self.launched[where] += 1
            return _result_on_host(kind, args[0])
        result = _run(function, args, kwargs)
        devices = {x.device for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)}
        if META not in devices or _launches_nothing(function):
            return result
        self.launched[where] += 1
        self.waits.update([where] * (function in WAIT_WITHIN))
        if kind in COPIES and len(devices) > 1:
            self.copies[where] += 1
            source = args[1] if kind is aten.copy_ else args[0]
            if source.device == META:
                self.waits[where] += 1
        elif any(x.device != META and x.ndim for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)):
            raise MixedDevices(f"{where.line}: {function} has operands on the device and on the host")
        return result

    def _where(self) -> Where:
        node = torch._C._current_autograd_node()
        if node is None:
            found = self._of_stack(sys._getframe(2))
            # The number of the node that autograd made for this operation, if it has one.
            self._of_node.setdefault(torch.autograd._get_sequence_nr() - 1, found)
            return found
        found = self._of_node.get(node._sequence_nr(), Where("", "gradients"))
        return Where("backward", found.line)

    def _of_stack(self, frame: FrameType | None) -> Where:
        line, part = "", self.rest
        while frame is not None:
            name = _relative(frame.f_code.co_filename)
            if not line and name and not name.startswith(("torch/", "benchmarks/", "tests/")):
                line = f"{name}:{frame.f_lineno}"
            part = next((part for start, part in self.parts.items() if name.startswith(start)), part)
            frame = frame.f_back
        return Where(part, line)


@cache
def _relative(file: str) -> str:
    """The path of a file of the project or of a package, relative to its root; empty for other files."""
    # The packages may be in a folder of the project, which is then the shorter root.
    root = max((root for root in ROOTS if file.startswith(root)), key=len, default=None)
    return file.removeprefix(root) if root else ""


def _launches_nothing(function: Any) -> bool:
    """Whether an operation only allocates memory or returns a view."""
    returns = function._schema.returns
    views = bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)
    return views or function.overloadpacket in LAUNCH_NOTHING or function.namespace == "profiler"


def _run(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute shapes; operations without an implementation for ``meta`` return nothing or what the host would get."""
    if function.overloadpacket.__name__.startswith("_fused_"):
        return None
    to = kwargs.get("device") or META
    if function.overloadpacket is aten._to_copy and args[0].device == META and to != META:
        return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype, device=to)
    return function(*args, **kwargs)


def _result_on_host(kind: Any, x: Tensor) -> Any:
    """A result of one of WAIT: the number 0, or as many indices as there could be."""
    return x.new_empty((x.numel(), x.ndim), dtype=torch.int64) if kind is aten.nonzero else 0


class MetaGenerator(torch.Generator):
    """A generator that passes for one on the ``meta`` device, which has none."""

    device = META


@contextmanager
def on_meta() -> Iterator[None]:
    """Make generators for ``meta``, and accept it as a device of fused optimizers and, in float32, of autocast."""
    make: Callable[..., torch.Generator] = torch.Generator
    with ExitStack() as stack:
        stack.enter_context(
            mock.patch("torch.Generator", lambda d="cpu": MetaGenerator() if torch.device(d) == META else make(d))
        )
        stack.enter_context(
            mock.patch("torch.optim.optimizer._get_fused_kernels_supported_devices", lambda: ["meta", "cuda"])
        )
        stack.enter_context(mock.patch("torch.autocast", lambda *_, **__: nullcontext()))
        yield
