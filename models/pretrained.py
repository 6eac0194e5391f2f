"""Loading of weights, ours and the authors', into encoders, without running anything that a file brings.

python -m models.pretrained WEIGHTS.pt [--dim 3]    what of a file fits which library's network
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn
from torchvision.models import resnet18

from models.encoders import FIRST_CONVS, adapt_input
from models.pcrlv2_model import build_unet
from models.pcrlv2_model_3d import Encoder3d
from utils.arguments import OneLineParser
from utils.checkpoints import read_checkpoint
from utils.errors import UsageError, UserError, run_command

# DataParallel and the 2D network put these before the names of the encoder's entries.
PREFIXES = ("module.", "model.", "encoder.")


class Match(NamedTuple):
    """How many of a module's entries a file had, and which it had not."""

    matched: int
    expected: int
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.matched} of {self.expected} entries matched"


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, prefixes of wrappers taken off.

    Raises:
        UserError: the file cannot be read, holds other objects, or no tensors.
    """
    content = read_checkpoint(path)
    entries = content.get("state_dict", content.get("model", content))
    if not isinstance(entries, Mapping):
        raise UserError(f"{path}: expected a dict of weights under 'state_dict', got a {type(entries).__name__}")
    weights = {_bare(str(name)): value for name, value in entries.items() if isinstance(value, Tensor)}
    if not weights:
        raise UserError(f"{path}: expected weights, found no tensor")
    return weights


def _bare(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def load_matching(module: nn.Module, weights: Mapping[str, Tensor], *, source: str | Path) -> Match:
    """Copy the entries whose name and shape fit, and say how many did.

    Raises:
        UserError: none did.
    """
    own = {_bare(name): name for name in module.state_dict()}
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    fitting = {own[n]: v for n, v in weights.items() if n in own and v.shape == shapes[own[n]]}
    if not fitting:
        some = ", ".join(list(weights)[:3])
        raise UserError(f"{source}: none of its {len(weights)} entries ({some}, ...) fits {type(module).__name__}")
    module.load_state_dict(fitting, strict=False)
    return Match(len(fitting), len(own), tuple(name for name in shapes if name not in fitting))


def load_encoder(path: str | Path, dim: int) -> nn.Module:
    """The encoder with the weights of any ``.pt`` of ours or of the authors.

    Args:
        path: the file.
        dim: 2 for the ResNet18 encoder of segmentation-models-pytorch, 3 for :class:`Encoder3d`.

    Returns:
        A module that maps B C *S to the list of its stages' features. Its attribute ``match`` says how many of its
        entries the file had.

    Raises:
        UsageError: ``dim`` is neither 2 nor 3.
        UserError: the file cannot be read, or nothing in it fits.
    """
    if dim not in (2, 3):
        raise UsageError(f"dim: expected 2 or 3, got {dim}")
    encoder: nn.Module = build_unet(classes=1, encoder_weights=None).encoder if dim == 2 else Encoder3d()
    encoder.match = load_matching(encoder, read_weights(path), source=path)  # type: ignore[assignment]
    return encoder


def load_resnet18(path: str | Path, library: str) -> nn.Module:
    """A library's own ResNet18 with the 2D weights of any ``.pt`` of ours or of the authors.

    Args:
        path: the file.
        library: of LIBRARIES. torchvision's and timm's networks have a classifier, ``fc``, which stays random.

    Returns:
        The network; its attribute ``match`` says how many of its entries the file had, and which it had not.

    Raises:
        UsageError: the library is unknown.
        UserError: the file cannot be read, or nothing in it fits.
    """
    if library not in LIBRARIES:
        raise UsageError(f"library: expected one of {', '.join(LIBRARIES)}, got {library}")
    network = LIBRARIES[library]()
    network.match = load_matching(network, read_weights(path), source=path)  # type: ignore[assignment]
    return network


def _smp() -> nn.Module:
    return build_unet(classes=1, encoder_weights=None).encoder


def _torchvision() -> nn.Module:
    return resnet18(weights=None)


def _timm() -> nn.Module:
    # Brought by segmentation-models-pytorch; slow to import, and nothing else here needs it.
    import timm

    return timm.create_model("resnet18")


LIBRARIES: dict[str, Callable[[], nn.Module]] = {"smp": _smp, "torchvision": _torchvision, "timm": _timm}


def main(arguments: Sequence[str] | None = None) -> int:
    """Say what of a file fits."""
    parser = OneLineParser(
        prog="python -m models.pretrained", description="Load weights into each library's network, say what matched."
    )
    parser.add_argument("weights", metavar="WEIGHTS.pt", help="weights of ours or of the authors")
    parser.add_argument("--dim", type=int, choices=[2, 3], default=2, help="dimensions of the encoder")
    options = parser.parse_args(arguments)
    if options.dim == 3:
        networks = {"Encoder3d": load_encoder(options.weights, dim=3)}
    else:
        networks = {f"{name} resnet18": load_resnet18(options.weights, name) for name in LIBRARIES}
    for name, network in networks.items():
        match = network.match
        assert isinstance(match, Match)
        missing = f"; not in the file: {', '.join(match.missing)}" if match.missing else ""
        print(f"{name}: {match}{missing}")
    return 0


if __name__ == "__main__":
    run_command(main)


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
