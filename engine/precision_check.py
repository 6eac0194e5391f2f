"""Compares half precision with float32 before training, and computes faulty layers in float32.

A library's kernel can be wrong on one type of processor only: on CPUs with AVX-512 BF16 and without AMX, PyTorch's bf16
weight gradient of a 3D convolution is uninitialised memory where the features are 2×2×2 or 2×2×1, as the deepest
features of a local crop of 16³ are. BatchNorm hides this from the loss. Therefore each product (convolution, matrix
product, attention) that autocast computes in half precision is also computed forward and backward in float32, with the
shapes of the run's own network and views.

Products are compared one by one because over a whole network rounding alone changes a gradient by more than a fault
would: the deepest BatchNorm of a small batch amplifies it.
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
# All functions that autocast computes in half precision.
PRODUCTS: tuple[Any, ...] = (
    *CONVOLUTIONS, F.linear, torch.matmul, Tensor.matmul, torch.bmm, torch.mm, torch.addmm,
    torch.baddbmm, torch.einsum, F.scaled_dot_product_attention,
)  # fmt: skip
# Relative L2 error. Rounding to bf16 gives 0.005; uninitialised memory gives 0.9 and more.
TOLERANCE = 0.1
# CPU kernels are chosen by the shape of a sample, so that few samples are enough and quicker. GPU kernels are chosen by
# the batch size as well; there the whole batch is used, which is quick.
SAMPLES_ON_CPU = 2


@dataclass(frozen=True)
class TensorSpec:
    """Shape and stride of a tensor."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def of(cls, x: Tensor, *, samples: int | None = None) -> "TensorSpec":
        """The spec of a tensor, or of its first ``samples`` samples."""
        return cls(tuple(x[:samples].shape) if x.dim() else (), x.stride())

    def draw(self, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """A tensor of this spec with normally distributed values, float32 rounded to ``dtype``."""
        numbers = torch.randn(self.shape, generator=generator, device=generator.device).to(dtype).float()
        if 0 in self.stride:
            return numbers
        return torch.empty_strided(self.shape, self.stride, device=generator.device).copy_(numbers)


class Product(NamedTuple):
    """A call of one of PRODUCTS, with a :class:`TensorSpec` in place of each tensor."""

    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...]


class _ProductRecorder(TorchFunctionMode):
    """Records each product that is computed in half precision, and the parameters that are its operands."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.products: dict[Product, list[list[nn.Parameter]]] = {}

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in PRODUCTS and torch.is_autocast_enabled(self.device.type):
            operands = [x for x in (*args, *kwargs.values()) if isinstance(x, nn.Parameter)]
            self.products.setdefault(self._product(function, args, kwargs), []).append(operands)
        return function(*args, **kwargs)

    def _product(self, function: Callable[..., Tensor], args: Sequence[Any], kwargs: dict[str, Any]) -> Product:
        few = function in CONVOLUTIONS and self.device.type == "cpu"
        specs = [_hashable(x, samples=SAMPLES_ON_CPU if few and index == 0 else None) for index, x in enumerate(args)]
        return Product(function, tuple(specs), tuple((name, _hashable(x)) for name, x in sorted(kwargs.items())))


def _hashable(value: Any, samples: int | None = None) -> Any:
    """An argument in a form that can be compared and hashed: tensors as :class:`TensorSpec`, lists as tuples."""
    if isinstance(value, Tensor):
        return TensorSpec.of(value, samples=samples)
    return tuple(value) if isinstance(value, list) else value


def worst_error(product: Product, device: torch.device, dtype: torch.dtype) -> float:
    """The largest relative L2 error of half precision over the result and the gradients of all operands.

    The operands are normally distributed, always the same, and rounded to ``dtype``, so that neither overflow nor the
    loss scale affects the error.
    """
    generator = torch.Generator(device).manual_seed(0)
    args = [x.draw(generator, dtype).requires_grad_() if isinstance(x, TensorSpec) else x for x in product.args]
    options = {name: x.draw(generator, dtype) if isinstance(x, TensorSpec) else x for name, x in product.options}
    operands = [x for x in args if isinstance(x, Tensor)]

    def compute(*, half: bool) -> Tensor:
        with torch.enable_grad(), torch.autocast(device.type, dtype, enabled=half):
            return product.function(*args, **options)

    expected, found = compute(half=False), compute(half=True)
    output_gradient = TensorSpec.of(expected).draw(generator, dtype)
    expected_gradients = torch.autograd.grad(expected, operands, output_gradient)
    _fill_free_memory(operands, dtype)
    found_gradients = torch.autograd.grad(found, operands, output_gradient.to(found.dtype))
    pairs = zip((expected.detach(), *expected_gradients), (found.detach(), *found_gradients), strict=True)
    # The maximum is NaN where any error is NaN.
    return torch.stack([(b.float() - a).norm() / a.norm().clamp(min=1e-30) for a, b in pairs]).max().item()


def _fill_free_memory(operands: Iterable[Tensor], dtype: torch.dtype) -> None:
    """Write large numbers into memory that the gradients will then be allocated in.

    A gradient that the kernel does not write then has a large error, even where the memory held the expected values.
    """
    for x in operands:
        for kind in (dtype, torch.float32):
            torch.full((x.numel(),), 6e4, dtype=kind, device=x.device)


class _InFloat32(nn.Module):
    """Base class of modules that run in float32 under autocast; their parameters keep their names."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        args = tuple(x.float() if isinstance(x, Tensor) else x for x in args)
        with torch.autocast(args[0].device.type, enabled=False):
            return super().forward(*args, **kwargs)


def compute_in_float32(module: nn.Module) -> None:
    """Compute a module in float32 under autocast, permanently.

    The class is replaced and not the object's ``forward``: DataParallel's replicas share attributes of the object, and
    would compute with the first GPU's parameters.
    """
    kind = type(module)
    module.__class__ = type(f"Float32{kind.__name__}", (_InFloat32, kind), {})


@contextlib.contextmanager
def _eager_evaluation(model: nn.Module) -> Iterator[None]:
    """Run the model without gradients, in evaluation mode, and not compiled; its modes are restored afterwards."""
    modes = {module: module.training for module in model.modules()}
    compiled = any(module._compiled_call_impl is not None for module in modes)
    # Only where something is compiled, since set_stance loads the compiler.
    eager = torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()
    model.eval()
    try:
        with torch.no_grad(), eager:
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _layer_of(model: nn.Module, operands: Sequence[Tensor]) -> str:
    """Name of the layer that owns these parameters; '', the whole model, if no single layer does or it is float32."""
    layers = {id(p): name for name, m in model.named_modules() for p in m.parameters(recurse=False)}
    names = {layers.get(id(operand), "") for operand in operands}
    name = names.pop() if len(names) == 1 else ""
    return "" if isinstance(model.get_submodule(name), _InFloat32) else name


def find_products(
    model: nn.Module, forward: Callable[[], object], device: torch.device
) -> dict[Product, list[list[nn.Parameter]]]:
    """The products that a forward pass computes in half precision, each with the parameters of each of its calls."""
    with _eager_evaluation(model), _ProductRecorder(device) as recorder:
        forward()
    return recorder.products


def check_half_precision(
    model: nn.Module, forward: Callable[[], object], devices: Sequence[torch.device], dtype: torch.dtype
) -> list[str]:
    """Compare half precision with float32, and compute the faulty layers in float32, the same ones on all processes.

    Weights, buffers, gradients and the global random state are not changed. Takes about as long as one step, and waits
    for the device.

    Args:
        model: the network.
        forward: runs the network on a batch of the run, with autocast.
        devices: of this process; the network is on the first.
        dtype: the half precision of autocast.

    Returns:
        Names of the layers that compute in float32 from now on; '' stands for the whole network.
    """
    in_float32: list[str] = []
    faulty: dict[Product, bool] = {}
    while True:
        products = find_products(model, forward, devices[0])
        for product in products.keys() - faulty.keys():
            # The negation counts an error of NaN as faulty.
            faulty[product] = any(not worst_error(product, device, dtype) <= TOLERANCE for device in devices)
        own = {_layer_of(model, calls) for product in products if faulty[product] for calls in products[product]}
        layers = sorted(set().union(*gather(own)))
        if not layers:
            return in_float32
        for name in layers:
            compute_in_float32(model.get_submodule(name))
        # Repeated, since a product may use the parameters of a layer without calling the layer.
        in_float32 += layers


def describe_float32_layers(names: Sequence[str], device: torch.device, dtype: torch.dtype) -> str:
    """The message for the user: which layers compute in float32, and why."""
    wrong = f"--amp: gradients in {str(dtype).removeprefix('torch.')} are wrong on this {device.type.upper()}"
    if "" in names:
        return f"{wrong}; computing in float32"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{wrong} in {', '.join(names[:5])}{more}; computing these layers in float32"
