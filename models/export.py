"""Export encoders for other programs, as safetensors or ONNX, also for another number of input channels.

python -m models.export WEIGHTS.pt --dim 3 --to onnx --out encoder.onnx
python -m models.export WEIGHTS.pt --dim 3 --to safetensors --out encoder.safetensors --in_channels 4
"""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.encoders import NORMS, first_conv_name
from models.pretrained import load_encoder_with_match
from models.weight_facts import facts_of
from utils.arguments import OneLineParser, number
from utils.atomic import whole_file
from utils.errors import run_command
from utils.optional import import_optional
from utils.safetensors_files import write_safetensors

PROGRAM = "python -m models.export"

# Sides of the example image that ONNX export traces. They differ and are not 1, so that the exporter neither confuses
# two sides nor takes one for a constant.
EXAMPLE_SIDES = {2: (64, 96), 3: (16, 24, 32)}
AXES = {2: ("height", "width"), 3: ("x", "y", "z")}


def save_safetensors(encoder: nn.Module, path: str | Path, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the encoder's weights as safetensors, float32 or int64; in 2D torchvision and timm use the same names.

    Args:
        encoder: the encoder.
        path: the file to write.
        facts: what goes into the metadata, see :func:`models.weight_facts.facts_of`.

    Raises:
        UserError: safetensors is not installed, or the file cannot be written.
    """
    write_safetensors(path, encoder.state_dict(), facts)


class Stages(nn.Module):
    """Returns an encoder's features as a tuple, shallowest first, without the first ``skip`` entries.

    Args:
        encoder: maps B C *S to a list of features.
        skip: 1 for 2D encoders, whose list begins with the input itself, else 0.
    """

    def __init__(self, encoder: nn.Module, skip: int) -> None:
        super().__init__()
        self.encoder, self.skip = encoder, skip

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map B C *S to the features B F *s of each stage."""
        return tuple(self.encoder(image)[self.skip :])


def save_onnx(encoder: nn.Module, path: str | Path, *, dim: int) -> None:
    """Write the encoder as ONNX, with its weights in the same file.

    The input ``image`` is B C H W or B C X Y Z; B and all sides are dynamic. The outputs ``stage1``, ``stage2``, ...
    are the features of the stages, shallowest first.

    Raises:
        UserError: onnx or onnxscript is not installed, or the file cannot be written.
    """
    for package in ("onnx", "onnxscript"):
        import_optional(package, "--to onnx")
    in_channels = encoder.state_dict()[first_conv_name(encoder.state_dict())].shape[1]
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
    assert program is not None  # only the old exporter (dynamo=False) returns None
    with whole_file(path) as file:
        file.write(program.model_proto.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's warnings, which concern its own implementation and not the encoder."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Export one encoder, as the command line asks."""
    parser = OneLineParser(prog=PROGRAM, description="Write a pre-trained encoder for other programs.")
    parser.add_argument("weights", metavar="WEIGHTS.pt", help="weights of this program or of the authors")
    parser.add_argument("--dim", type=int, choices=[2, 3], required=True, help="dimensions of the encoder")
    parser.add_argument("--to", choices=["safetensors", "onnx"], required=True, help="format")
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write")
    parser.add_argument(
        "--in_channels", type=number(int, 1, 1024), help="channels of the input; by default as in the file"
    )
    parser.add_argument("--norm", choices=NORMS, default=NORMS[0], help="normalisation of the network in the file")
    options = parser.parse_args(arguments)
    encoder, match = load_encoder_with_match(
        options.weights, options.dim, in_channels=options.in_channels, norm=options.norm
    )
    encoder.eval()
    channels = encoder.state_dict()[first_conv_name(encoder.state_dict())].shape[1]

    def save_with_facts() -> None:
        facts = facts_of(options.weights, dim=options.dim, channels=channels, norm=options.norm)
        save_safetensors(encoder, options.out, facts)

    save: dict[str, Callable[[], None]] = {
        "safetensors": save_with_facts,
        "onnx": lambda: save_onnx(encoder, options.out, dim=options.dim),
    }
    save[options.to]()
    print(f"{options.weights}: {match}", file=sys.stderr)
    print(f"{options.out}: written", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run_command(main, PROGRAM)
