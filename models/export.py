"""Encoders for other programs: safetensors, ONNX, and inputs of other than the pre-trained number of channels.

python -m models.export WEIGHTS.pt --dim 3 --to onnx --out encoder.onnx
python -m models.export WEIGHTS.pt --dim 3 --to safetensors --out encoder.safetensors --in_channels 4
"""

import importlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from models.pcrlv2_model import build_unet
from models.pcrlv2_model_3d import Encoder3d
from models.pretrained import Match, load_matching, read_weights
from utils.arguments import OneLineParser, number
from utils.atomic import whole_file
from utils.errors import UsageError, UserError, run_command

# The first convolution of the 3D and of the 2D encoder; torchvision and timm call theirs as the latter.
FIRST_CONVS = ("down_tr64.ops.0.conv1.weight", "conv1.weight")
# Sides of the image that ONNX export traces, all different and not 1, so that no side is taken for another or for
# constant.
EXAMPLE_SIDES = {2: (64, 96), 3: (16, 24, 32)}
AXES = {2: ("height", "width"), 3: ("x", "y", "z")}


@overload
def adapt_input(source: nn.Module, in_channels: int) -> nn.Module: ...
@overload
def adapt_input(source: Mapping[str, Tensor], in_channels: int) -> dict[str, Tensor]: ...


def adapt_input(source: nn.Module | Mapping[str, Tensor], in_channels: int) -> nn.Module | dict[str, Tensor]:
    """An encoder, or its weights, for inputs of another number of channels.

    The first convolution's weights are summed over the channels they have, repeated ``in_channels`` times, and divided
    by ``in_channels``. A grey image that is repeated over the channels therefore gives the features that it gave
    before; repeating without dividing would multiply the first convolution's response by the number of channels, which
    the running statistics of the BatchNorm behind it do not expect. In 3D, where the pre-trained input has one channel,
    this is the published repetition over the channels of BraTS, but for the division. In 2D, whose pre-training sees
    grey images as RGB, the three colours become one before they are repeated. With the number of channels that is there
    already nothing changes.

    Args:
        source: a 2D or 3D encoder (changed in place), or its entries by name (left as they are).
        in_channels: 1 or more.

    Returns:
        The same module, or a new dict of weights.

    Raises:
        UsageError: ``in_channels`` is below 1.
        UserError: there is no first convolution of an encoder of ours.
    """
    if in_channels < 1:
        raise UsageError(f"in_channels: expected 1 or more, got {in_channels}")
    name = _first_conv(source.state_dict() if isinstance(source, nn.Module) else source)
    if not isinstance(source, nn.Module):
        return {**source, name: _spread(source[name], in_channels)}
    conv = source.get_submodule(name.removesuffix(".weight"))
    assert isinstance(conv, nn.Conv2d | nn.Conv3d)
    if conv.in_channels != in_channels:
        conv.weight = nn.Parameter(_spread(conv.weight.detach(), in_channels))
        conv.in_channels = in_channels
    return source


def _first_conv(entries: Mapping[str, Any]) -> str:
    for name in FIRST_CONVS:
        if name in entries:
            return name
    raise UserError(f"expected an encoder with {' or '.join(FIRST_CONVS)}, found neither")


def _spread(weight: Tensor, in_channels: int) -> Tensor:
    """O I *K to O in_channels *K of the same response to a repeated input."""
    if weight.shape[1] == in_channels:
        return weight
    summed = weight.sum(dim=1, keepdim=True)
    return (summed / in_channels).repeat_interleave(in_channels, dim=1)


def build_encoder(dim: int, in_channels: int) -> nn.Module:
    """An encoder with random weights: ResNet18 of segmentation-models-pytorch (``dim`` 2), or :class:`Encoder3d` (3).

    Raises:
        UsageError: ``dim`` is neither.
    """
    if dim == 2:
        encoder = build_unet(classes=1, encoder_weights=None).encoder
        # Which also tells a decoder built on it how many channels its first feature has, the input itself.
        encoder.set_in_channels(in_channels, pretrained=False)
        return encoder
    if dim == 3:
        return Encoder3d(in_channels=in_channels)
    raise UsageError(f"dim: expected 2 or 3, got {dim}")


def load_adapted(path: str | Path, dim: int, in_channels: int | None = None) -> tuple[nn.Module, Match]:
    """The encoder of a ``.pt`` for inputs of ``in_channels`` channels (default: as many as its weights have).

    Returns:
        The encoder, in evaluation mode, and how many of its entries the file had.

    Raises:
        UsageError: ``dim`` is neither 2 nor 3, or ``in_channels`` is below 1.
        UserError: the file cannot be read, or nothing in it fits.
    """
    weights = read_weights(path)
    try:
        present = weights[_first_conv(weights)].shape[1]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    wanted = present if in_channels is None else in_channels
    adapted = adapt_input(weights, wanted)
    encoder = build_encoder(dim, wanted)
    match = load_matching(encoder, adapted, source=path)
    return encoder.eval(), match


def load_into(encoder: nn.Module, path: str | Path, in_channels: int) -> Match:
    """The encoder's entries of a ``.pt`` into an encoder for ``in_channels`` channels, in place.

    Raises:
        UserError: the file cannot be read, or nothing in it fits.
    """
    weights = read_weights(path)
    known = encoder.state_dict().keys()
    # Of a whole network's entries only the encoder's; of another network's all, so that the error can name some.
    entries = {name: value for name, value in weights.items() if name in known} or weights
    if any(name in entries for name in FIRST_CONVS):
        entries = adapt_input(entries, in_channels)
    return load_matching(encoder, entries, source=path)


def needed(package: str, purpose: str) -> Any:
    """An optional package.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"{purpose} needs the package {package}, which is not installed: pip install -r requirements-downstream.txt"
        ) from None


def save_safetensors(encoder: nn.Module, path: str | Path) -> None:
    """The encoder's entries under their own names, which in 2D are also torchvision's and timm's; float32 or int64.

    Raises:
        UserError: safetensors is not installed, or the file cannot be written.
    """
    safetensors = needed("safetensors.torch", "--to safetensors")
    entries = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    with whole_file(path) as file:
        file.write(safetensors.save(entries, metadata={"format": "pt"}))


class Stages(nn.Module):
    """An encoder's features as a tuple, shallowest first, without the input, which encoders of 2D put before them."""

    def __init__(self, encoder: nn.Module, skip: int) -> None:
        super().__init__()
        self.encoder, self.skip = encoder, skip

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """B C *S to one B F *s per stage."""
        return tuple(self.encoder(image)[self.skip :])


def save_onnx(encoder: nn.Module, path: str | Path, *, dim: int) -> None:
    """The encoder as ONNX, its weights in the same file.

    Input ``image`` is B C H W or B C X Y Z, B and all sides free; outputs ``stage1``, ``stage2``, ... are the features
    of the stages, shallowest first.

    Raises:
        UserError: onnx or onnxscript is not installed, or the file cannot be written.
    """
    for package in ("onnx", "onnxscript"):
        needed(package, "--to onnx")
    in_channels = encoder.state_dict()[_first_conv(encoder.state_dict())].shape[1]
    example = torch.zeros(2, in_channels, *EXAMPLE_SIDES[dim])
    stages = Stages(encoder, skip=1 if dim == 2 else 0).eval()
    with torch.no_grad():
        count = len(stages(example))
    dynamic = {0: torch.export.Dim("batch"), **{i: torch.export.Dim(n, min=8) for i, n in enumerate(AXES[dim], 2)}}
    with _quiet():
        program = torch.onnx.export(
            stages, (example,), dynamo=True, verbose=False, input_names=["image"],
            output_names=[f"stage{i + 1}" for i in range(count)], dynamic_shapes=(dynamic,),
        )  # fmt: skip
    assert program is not None  # which it is only for the exporter of old
    with whole_file(path) as file:
        file.write(program.model_proto.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on its own insides, which say nothing about the encoder."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the encoder that the options ask for."""
    parser = OneLineParser(
        prog="python -m models.export", description="Write a pre-trained encoder for other programs."
    )
    parser.add_argument("weights", metavar="WEIGHTS.pt", help="weights of ours or of the authors")
    parser.add_argument("--dim", type=int, choices=[2, 3], required=True, help="dimensions of the encoder")
    parser.add_argument("--to", choices=["safetensors", "onnx"], required=True, help="format")
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write")
    parser.add_argument(
        "--in_channels", type=number(int, 1, 1024), help="channels of the input; as pre-trained if left out"
    )
    options = parser.parse_args(arguments)
    encoder, match = load_adapted(options.weights, options.dim, options.in_channels)
    save: dict[str, Callable[[], None]] = {
        "safetensors": lambda: save_safetensors(encoder, options.out),
        "onnx": lambda: save_onnx(encoder, options.out, dim=options.dim),
    }
    save[options.to]()
    rest = "" if match.matched == match.expected else "; the others are random, is this the right --dim and network?"
    print(f"{options.weights}: {match}{rest}", file=sys.stderr)
    print(f"{options.out}: written", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run_command(main)
