"""Load weights of this program or of the authors into encoders: every entry of an encoder is loaded, or it is an error.

python -m models.pretrained WEIGHTS.pt [--dim 3]    print how many entries match each library's network
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn
from torchvision.models import resnet18

from models.encoders import FIRST_CONVS, PRETRAINED_CHANNELS, adapt_input, build_encoder, first_conv_name
from models.weight_files import bare_name, read_weights
from utils.arguments import OneLineParser
from utils.errors import UsageError, UserError, run_command

PROGRAM = "python -m models.pretrained"

# Names of the entries of an encoder's stem and stages; all others belong to a decoder or a classifier.
ENCODER_ENTRY = re.compile(r"(conv|bn|layer|down_tr)\d+\.")
# A counter that no forward pass uses; files from before PyTorch 0.4.1 do not have it.
COUNTER = "num_batches_tracked"
STATISTICS = ("running_mean", "running_var", COUNTER)


class Match(NamedTuple):
    """Which entries of a file were loaded into a network."""

    matched: int
    expected: int
    missing: tuple[str, ...] = ()
    """Entries of the network that are not in the file, of a decoder or a classifier; they stay random."""
    unused: tuple[str, ...] = ()
    """Entries of the file that the network does not have, or has in another shape."""

    def __str__(self) -> str:
        missing = f"; not in the file: {_summary(self.missing)}" if self.missing else ""
        unused = f"; not used of the file: {_summary(self.unused)}" if self.unused else ""
        return f"{self.matched} of {self.expected} entries matched{missing}{unused}"


def _summary(names: Sequence[str]) -> str:
    """List up to four names in full; of more names, list their first components."""
    few = names if len(names) <= 4 else dict.fromkeys(name.partition(".")[0] for name in names)
    return ", ".join(few)


def load_weights(module: nn.Module, path: str | Path) -> Match:
    """Copy the entries of a ``.pt`` file into an encoder, or into a network that contains one, in place.

    Every entry of the encoder comes from the file. The rest of the network, a decoder or a classifier, is loaded
    completely or not at all. Weights for another number of input channels are adapted, see
    :func:`models.encoders.adapt_input`.

    Raises:
        UserError: the file cannot be read, or it lacks entries of the encoder or has more of them. Nothing is copied.
    """
    return _load(module, read_weights(path), path)


def _load(module: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> Match:
    full_names = {bare_name(name): name for name in module.state_dict()}
    own = {name: module.state_dict()[full] for name, full in full_names.items()}
    weights = _adapted(weights, own)
    fitting = {name for name, value in own.items() if name in weights and weights[name].shape == value.shape}
    values = [name for name in own if not name.endswith(COUNTER)]
    _require_whole(list(filter(_of_encoder, values)), own, weights, where=f"{path}: {type(module).__name__}")
    if not all(name in fitting for name in values if not _of_encoder(name)):
        fitting = set(filter(_of_encoder, fitting))
    module.load_state_dict({full_names[name]: weights[name] for name in fitting}, strict=False)
    missing = tuple(full_names[name] for name in values if name not in fitting)
    return Match(
        len(fitting), len(fitting) + len(missing), missing, tuple(name for name in weights if name not in fitting)
    )


def _adapted(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the file's entries with the first convolution adapted to the network's input channels."""
    name = first_conv_name(own)
    if name in weights and weights[name].ndim == own[name].ndim:
        return adapt_input(weights, own[name].shape[1])
    return weights


def _require_whole(
    encoder: Sequence[str], own: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, where: str
) -> None:
    """Require that a file has all entries of the encoder and no others; otherwise it belongs to another network.

    Args:
        encoder: names of the encoder's entries.
        own: all entries of the network by name.
        weights: entries of the file by name.
        where: file and network, for the error message.

    Raises:
        UserError: entries are missing, have another shape, or belong to another encoder.
    """
    missing = [name for name in encoder if name not in weights]
    reshaped = [name for name in encoder if name in weights and weights[name].shape != own[name].shape]
    foreign = [name for name in weights if name not in own and _is_foreign(name, own)]
    if not (missing or reshaped or foreign):
        return
    shapes = [f"{name} ({_shape(weights[name])}, expected {_shape(own[name])})" for name in reshaped]
    found = (("missing", missing), ("of another shape", shapes), ("of another encoder", foreign))
    faults = "; ".join(f"{what}: {_first(names)}" for what, names in found if names)
    hint = "is this the right file, network and number of dimensions?"
    if not (reshaped or foreign) and all(name.endswith(STATISTICS) for name in missing):
        hint = "its network has another norm than BatchNorm; name it with --norm"
    fit = len(encoder) - len(missing) - len(reshaped)
    raise UserError(
        f"{where} expected every entry of its encoder, {fit} of {len(encoder)} fit, of {len(weights)} in the file; "
        f"{faults}; {hint}"
    )


def _of_encoder(name: str) -> bool:
    return bool(ENCODER_ENTRY.match(name))


def _is_foreign(name: str, own: Mapping[str, Tensor]) -> bool:
    """Return whether an entry belongs to another encoder; BatchNorm statistics do not if ``own`` has another norm."""
    norm, _, kind = name.rpartition(".")
    return _of_encoder(name) and not (kind in STATISTICS and f"{norm}.weight" in own)


def _shape(value: Tensor) -> str:
    return "×".join(map(str, value.shape)) or "a number"


def _first(names: Sequence[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def load_encoder(path: str | Path, dim: int, *, in_channels: int | None = None, norm: str = "bn") -> nn.Module:
    """Load the encoder from any ``.pt`` file of this program or of the authors.

    Args:
        path: the weight file.
        dim: 2 for the ResNet18 encoder of segmentation-models-pytorch, 3 for
            :class:`models.pcrlv2_model_3d.Encoder3d`.
        in_channels: channels of the input; by default as many as the file's weights have.
        norm: normalisation of the network in the file, see :func:`models.encoders.build_encoder`.

    Returns:
        A module that maps B C *S to the list of its stages' features; all of its entries come from the file.

    Raises:
        UsageError: ``dim`` is neither 2 nor 3, ``in_channels`` is below 1, or there is no such ``norm``.
        UserError: the file cannot be read, or belongs to another network.
    """
    return load_encoder_with_match(path, dim, in_channels=in_channels, norm=norm)[0]


def load_encoder_with_match(
    path: str | Path, dim: int, *, in_channels: int | None = None, norm: str = "bn"
) -> tuple[nn.Module, Match]:
    """Load as :func:`load_encoder`; also return which entries matched."""
    weights = read_weights(path)
    channels = _channels_in(weights, dim) if in_channels is None else in_channels
    encoder = build_encoder(dim, channels, norm)
    return encoder, _load(encoder, weights, path)


def _channels_in(weights: Mapping[str, Tensor], dim: int) -> int:
    """Return the input channels of the file's first convolution, or those of pre-training if the file has none."""
    convs = (weights[name] for name in FIRST_CONVS if name in weights)
    return next((conv.shape[1] for conv in convs if conv.ndim == dim + 2), PRETRAINED_CHANNELS.get(dim, 1))


def load_resnet18(path: str | Path, library: str) -> nn.Module:
    """Load 2D weights from any ``.pt`` file of this program or of the authors into a library's own ResNet18.

    Args:
        path: the weight file.
        library: a key of LIBRARIES. The networks of torchvision and timm have a classifier, ``fc``, which stays random
            unless the file has one of the same shape.

    Raises:
        UsageError: the library is unknown.
        UserError: the file cannot be read, or belongs to another network.
    """
    return load_resnet18_with_match(path, library)[0]


def load_resnet18_with_match(path: str | Path, library: str) -> tuple[nn.Module, Match]:
    """Load as :func:`load_resnet18`; also return which entries matched."""
    if library not in LIBRARIES:
        raise UsageError(f"library: expected one of {', '.join(LIBRARIES)}, got {library}")
    network = LIBRARIES[library]()
    return network, load_weights(network, path)


def _smp() -> nn.Module:
    return build_encoder(2, PRETRAINED_CHANNELS[2])


def _torchvision() -> nn.Module:
    return resnet18(weights=None)


def _timm() -> nn.Module:
    # A dependency of segmentation-models-pytorch; imported here because it is slow to import and used only here.
    import timm

    return timm.create_model("resnet18")


LIBRARIES: dict[str, Callable[[], nn.Module]] = {"smp": _smp, "torchvision": _torchvision, "timm": _timm}


def matches(path: str | Path, dim: int) -> Iterable[tuple[str, Match]]:
    """Yield which entries of a file match each library's network."""
    if dim == 3:
        yield "Encoder3d", load_encoder_with_match(path, dim, in_channels=PRETRAINED_CHANNELS[3])[1]
        return
    for library in LIBRARIES:
        yield f"{library} resnet18", load_resnet18_with_match(path, library)[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print which entries of a file match each network."""
    parser = OneLineParser(
        prog=PROGRAM,
        description="Load weights into each library's network, print what matched.",
    )
    parser.add_argument("weights", metavar="WEIGHTS.pt", help="weights of this program or of the authors")
    parser.add_argument("--dim", type=int, choices=[2, 3], default=2, help="dimensions of the encoder")
    options = parser.parse_args(arguments)
    for name, match in matches(options.weights, options.dim):
        print(f"{name}: {match}")
    return 0


if __name__ == "__main__":
    run_command(main, PROGRAM)
