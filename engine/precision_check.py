"""Half precision is proved before it is used.

A library's kernel can be wrong on one processor alone: on CPUs with AVX-512 BF16 and without AMX, PyTorch's bf16 weight
gradient of a 3D convolution is uninitialised memory where the features are 2×2×2 or 2×2×1, as the deepest of a local
crop of 16³ are. BatchNorm hides that from the loss. So each product that autocast computes in half precision, in the
shapes that the run's own network and views give it, is computed forward and backward in float32 as well.

Product by product, since over a whole network rounding alone changes a gradient by more than any bound that would find
faults: the deepest BatchNorm of a small batch multiplies it.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from utils.distributed import gather

CONVOLUTIONS: tuple[Any, ...] = (
    F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
)  # fmt: skip
# The other functions that autocast has compute in half precision; attention has kernels of its own kind.
PRODUCTS: tuple[Any, ...] = (
    *CONVOLUTIONS, F.linear, torch.matmul, Tensor.matmul, torch.bmm, torch.mm, torch.addmm,
    torch.baddbmm, torch.einsum, F.scaled_dot_product_attention,
)  # fmt: skip
# Rounding to bf16 gives half a percent; memory that nobody wrote gives 90 and more.
TOLERANCE = 0.1
# A CPU's kernels are chosen by the shape of a sample, a GPU's by the batch as well; there a whole batch is quick.
SAMPLES_ON_CPU = 2


@dataclass(frozen=True)
class Layout:
    """How a tensor lies in memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def of(cls, x: Tensor, *, samples: int | None = None) -> "Layout":
        """That of a tensor, or of its first ``samples``."""
        return cls(tuple(x[:samples].shape) if x.dim() else (), x.stride())

    def draw(self, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Normal numbers in float32, rounded to ``dtype``."""
        numbers = torch.randn(self.shape, generator=generator, device=generator.device).to(dtype).float()
        if 0 in self.stride:
            return numbers
        return torch.empty_strided(self.shape, self.stride, device=generator.device).copy_(numbers)


class Product(NamedTuple):
    """A call of one of PRODUCTS, with layouts in place of tensors."""

    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...]


class _Watch(TorchFunctionMode):
    """Notes each product that is computed in half precision, and the parameters that are its operands."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.found: dict[Product, list[list[nn.Parameter]]] = {}

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in PRODUCTS and torch.is_autocast_enabled(self.device.type):
            operands = [x for x in (*args, *kwargs.values()) if isinstance(x, nn.Parameter)]
            self.found.setdefault(self._product(function, args, kwargs), []).append(operands)
        return function(*args, **kwargs)

    def _product(self, function: Callable[..., Tensor], args: Sequence[Any], kwargs: dict[str, Any]) -> Product:
        cut = function in CONVOLUTIONS and self.device.type == "cpu"
        plain = [_plain(x, samples=SAMPLES_ON_CPU if cut and place == 0 else None) for place, x in enumerate(args)]
        return Product(function, tuple(plain), tuple((name, _plain(x)) for name, x in sorted(kwargs.items())))


def _plain(value: Any, samples: int | None = None) -> Any:
    """An argument as it can be compared: tensors as layouts, lists as tuples."""
    if isinstance(value, Tensor):
        return Layout.of(value, samples=samples)
    return tuple(value) if isinstance(value, list) else value


def worst_error(product: Product, device: torch.device, dtype: torch.dtype) -> float:
    """The largest relative L2 error of half precision over the result and the gradients of all operands.

    The operands are normal numbers, always the same ones, rounded to ``dtype``, so that neither overflow nor the loss
    scale has a say.
    """
    generator = torch.Generator(device).manual_seed(0)
    args = [x.draw(generator, dtype).requires_grad_() if isinstance(x, Layout) else x for x in product.args]
    options = {name: x.draw(generator, dtype) if isinstance(x, Layout) else x for name, x in product.options}
    operands = [x for x in args if isinstance(x, Tensor)]

    def compute(*, half: bool) -> Tensor:
        with torch.enable_grad(), torch.autocast(device.type, dtype, enabled=half):
            return product.function(*args, **options)

    right, found = compute(half=False), compute(half=True)
    weights = Layout.of(right).draw(generator, dtype)
    gradients = torch.autograd.grad(right, operands, weights)
    _soil_memory(operands, dtype)
    halves = torch.autograd.grad(found, operands, weights.to(found.dtype))
    pairs = zip((right.detach(), *gradients), (found.detach(), *halves), strict=True)
    # A maximum passes NaN on.
    return torch.stack([(b.float() - a).norm() / a.norm().clamp(min=1e-30) for a, b in pairs]).max().item()


def _soil_memory(operands: Iterable[Tensor], dtype: torch.dtype) -> None:
    """Have the memory that gradients will be put into hold large numbers, lest what nobody writes look right."""
    for x in operands:
        for kind in (dtype, torch.float32):
            torch.full((x.numel(),), 6e4, dtype=kind, device=x.device)


class _InFloat32(nn.Module):
    """What becomes of a module's class when autocast must leave it alone; its parameters keep their names."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        args = tuple(x.float() if isinstance(x, Tensor) else x for x in args)
        with torch.autocast(args[0].device.type, enabled=False):
            return super().forward(*args, **kwargs)


def compute_in_float32(module: nn.Module) -> None:
    """Take a module out of autocast, for good.

    By its class, since a replica of DataParallel shares what hangs on the object, and would compute with the first
    GPU's parameters.
    """
    kind = type(module)
    module.__class__ = type(f"Float32{kind.__name__}", (_InFloat32, kind), {})


@contextlib.contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Run the model without gradients and in evaluation mode, as it is written, not as it is compiled."""
    modes = {module: module.training for module in model.modules()}
    compiled = any(module._compiled_call_impl is not None for module in modes)
    # Asked for only where something is compiled: it loads the compiler.
    eager = torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()
    model.eval()
    try:
        with torch.no_grad(), eager:
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _owner(model: nn.Module, operands: Sequence[Tensor]) -> str:
    """Name of the layer whose parameters these are; that of the whole model, '', where no layer can be mended."""
    layers = {id(p): name for name, m in model.named_modules() for p in m.parameters(recurse=False)}
    names = {layers.get(id(operand), "") for operand in operands}
    name = names.pop() if len(names) == 1 else ""
    return "" if isinstance(model.get_submodule(name), _InFloat32) else name


def find_products(
    model: nn.Module, forward: Callable[[], object], device: torch.device
) -> dict[Product, list[list[nn.Parameter]]]:
    """The products that a forward pass computes in half precision, each with the parameters of its calls."""
    with _untouched(model), _Watch(device) as watch:
        forward()
    return watch.found


def check_half_precision(
    model: nn.Module, forward: Callable[[], object], devices: Sequence[torch.device], dtype: torch.dtype
) -> list[str]:
    """Compare half precision with float32 and take out of it what is wrong, on all processes alike.

    Weights, buffers, gradients and the global random state stay as they are. It takes about the time of a step.

    Args:
        model: the network.
        forward: runs the network on a batch of the run, under autocast.
        devices: of this process; the network is on the first.
        dtype: autocast's.

    Returns:
        Names of the layers that compute in float32 from now on; '' is the whole network.
    """
    repaired: list[str] = []
    wrong: dict[Product, bool] = {}
    while True:
        products = find_products(model, forward, devices[0])
        for product in products.keys() - wrong.keys():
            wrong[product] = any(not worst_error(product, device, dtype) <= TOLERANCE for device in devices)
        owners = {_owner(model, operands) for product in products if wrong[product] for operands in products[product]}
        faults = sorted(set().union(*gather(owners)))
        if not faults:
            return repaired
        for name in faults:
            compute_in_float32(model.get_submodule(name))
        # Once more, since a product may take its parameters from a layer without calling it.
        repaired += faults


def describe_repair(names: Sequence[str], device: torch.device, dtype: torch.dtype) -> str:
    """The line that says what was found."""
    wrong = f"--amp: gradients in {str(dtype).removeprefix('torch.')} are wrong on this {device.type.upper()}"
    if "" in names:
        return f"{wrong}; computing in float32"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{wrong} in {', '.join(names[:5])}{more}; computing these layers in float32"
