"""Loading of weights, ours and the authors', into encoders: an encoder gets all of its entries, or there is an error.

python -m models.pretrained WEIGHTS.pt [--dim 3]    what of a file fits which library's network
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

# Entries of an encoder's stem and stages; all others are a decoder's or a classifier's.
ENCODER_ENTRY = re.compile(r"(conv|bn|layer|down_tr)\d+\.")
# Counts that no forward pass uses; files of before PyTorch 0.4.1 have none.
COUNTER = "num_batches_tracked"
STATISTICS = ("running_mean", "running_var", COUNTER)


class Match(NamedTuple):
    """What of a file went into a network."""

    matched: int
    expected: int
    missing: tuple[str, ...] = ()
    """Entries of the network that the file has not: those of a decoder or a classifier, which stay random."""
    unused: tuple[str, ...] = ()
    """Entries of the file that the network has not, or has in another shape."""

    def __str__(self) -> str:
        missing = f"; not in the file: {_summary(self.missing)}" if self.missing else ""
        unused = f"; not used of the file: {_summary(self.unused)}" if self.unused else ""
        return f"{self.matched} of {self.expected} entries matched{missing}{unused}"


def _summary(names: Sequence[str]) -> str:
    """A few names as they are, many by what they begin with."""
    few = names if len(names) <= 4 else dict.fromkeys(name.partition(".")[0] for name in names)
    return ", ".join(few)


def load_weights(module: nn.Module, path: str | Path) -> Match:
    """Copy the entries of a ``.pt`` into an encoder, or a network that has one, in place.

    The encoder gets every entry from the file. What the network has besides, a decoder or a classifier, gets all of its
    entries or none. Weights for another number of input channels are adapted, see :func:`models.encoders.adapt_input`.

    Raises:
        UserError: the file cannot be read; it has not every entry of the encoder, or more of them; nothing was copied.
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
    """The file's entries, the first convolution for as many channels as the network has."""
    name = first_conv_name(own)
    if name in weights and weights[name].ndim == own[name].ndim:
        return adapt_input(weights, own[name].shape[1])
    return weights


def _require_whole(
    encoder: Sequence[str], own: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, where: str
) -> None:
    """A file that leaves some of an encoder random, or holds more of one, is of another network.

    Raises:
        UserError: it does.
    """
    lacking = [name for name in encoder if name not in weights]
    reshaped = [name for name in encoder if name in weights and weights[name].shape != own[name].shape]
    foreign = [name for name in weights if name not in own and _is_foreign(name, own)]
    if not (lacking or reshaped or foreign):
        return
    shapes = [f"{name} ({_shape(weights[name])}, expected {_shape(own[name])})" for name in reshaped]
    found = (("missing", lacking), ("of another shape", shapes), ("of another encoder", foreign))
    faults = "; ".join(f"{what}: {_first(names)}" for what, names in found if names)
    hint = "is this the right file, network and number of dimensions?"
    if not (reshaped or foreign) and all(name.endswith(STATISTICS) for name in lacking):
        hint = "its network has another norm than BatchNorm, which must be named (--norm)"
    fit = len(encoder) - len(lacking) - len(reshaped)
    raise UserError(
        f"{where} expected every entry of its encoder, {fit} of {len(encoder)} fit, of {len(weights)} in the file; "
        f"{faults}; {hint}"
    )


def _of_encoder(name: str) -> bool:
    return bool(ENCODER_ENTRY.match(name))


def _is_foreign(name: str, own: Mapping[str, Tensor]) -> bool:
    """Whether an entry is an encoder's, and not the statistics of a BatchNorm where this one has another norm."""
    norm, _, kind = name.rpartition(".")
    return _of_encoder(name) and not (kind in STATISTICS and f"{norm}.weight" in own)


def _shape(value: Tensor) -> str:
    return "×".join(map(str, value.shape)) or "a number"


def _first(names: Sequence[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def load_encoder(path: str | Path, dim: int, *, in_channels: int | None = None, norm: str = "bn") -> nn.Module:
    """The encoder with the weights of any ``.pt`` of ours or of the authors.

    Args:
        path: the file.
        dim: 2 for the ResNet18 encoder of segmentation-models-pytorch, 3 for
            :class:`models.pcrlv2_model_3d.Encoder3d`.
        in_channels: of the input; as many as the file's weights have if left out.
        norm: that of the network in the file, see :func:`models.encoders.build_encoder`.

    Returns:
        A module that maps B C *S to the list of its stages' features, every entry of it from the file.

    Raises:
        UsageError: ``dim`` is neither 2 nor 3, ``in_channels`` below 1, or there is no such ``norm``.
        UserError: the file cannot be read, or is of another network.
    """
    return load_encoder_with_match(path, dim, in_channels=in_channels, norm=norm)[0]


def load_encoder_with_match(
    path: str | Path, dim: int, *, in_channels: int | None = None, norm: str = "bn"
) -> tuple[nn.Module, Match]:
    """As :func:`load_encoder`, and what of the file went into it."""
    weights = read_weights(path)
    channels = _channels_in(weights, dim) if in_channels is None else in_channels
    encoder = build_encoder(dim, channels, norm)
    return encoder, _load(encoder, weights, path)


def _channels_in(weights: Mapping[str, Tensor], dim: int) -> int:
    """The input channels of the file's first convolution; of another network's file those of pre-training."""
    convs = (weights[name] for name in FIRST_CONVS if name in weights)
    return next((conv.shape[1] for conv in convs if conv.ndim == dim + 2), PRETRAINED_CHANNELS.get(dim, 1))


def load_resnet18(path: str | Path, library: str) -> nn.Module:
    """A library's own ResNet18 with the 2D weights of any ``.pt`` of ours or of the authors.

    Args:
        path: the file.
        library: of LIBRARIES. torchvision's and timm's networks have a classifier, ``fc``, which stays random unless
            the file has one of its shape.

    Raises:
        UsageError: the library is unknown.
        UserError: the file cannot be read, or is of another network.
    """
    return load_resnet18_with_match(path, library)[0]


def load_resnet18_with_match(path: str | Path, library: str) -> tuple[nn.Module, Match]:
    """As :func:`load_resnet18`, and what of the file went into it."""
    if library not in LIBRARIES:
        raise UsageError(f"library: expected one of {', '.join(LIBRARIES)}, got {library}")
    network = LIBRARIES[library]()
    return network, load_weights(network, path)


def _smp() -> nn.Module:
    return build_encoder(2, PRETRAINED_CHANNELS[2])


def _torchvision() -> nn.Module:
    return resnet18(weights=None)


def _timm() -> nn.Module:
    # Brought by segmentation-models-pytorch; slow to import, and nothing else here needs it.
    import timm

    return timm.create_model("resnet18")


LIBRARIES: dict[str, Callable[[], nn.Module]] = {"smp": _smp, "torchvision": _torchvision, "timm": _timm}


def matches(path: str | Path, dim: int) -> Iterable[tuple[str, Match]]:
    """What of a file goes into each library's network."""
    if dim == 3:
        yield "Encoder3d", load_encoder_with_match(path, dim, in_channels=PRETRAINED_CHANNELS[3])[1]
        return
    for library in LIBRARIES:
        yield f"{library} resnet18", load_resnet18_with_match(path, library)[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Say what of a file fits."""
    parser = OneLineParser(
        prog="python -m models.pretrained", description="Load weights into each library's network, say what matched."
    )
    parser.add_argument("weights", metavar="WEIGHTS.pt", help="weights of ours or of the authors")
    parser.add_argument("--dim", type=int, choices=[2, 3], default=2, help="dimensions of the encoder")
    options = parser.parse_args(arguments)
    for name, match in matches(options.weights, options.dim):
        print(f"{name}: {match}")
    return 0


if __name__ == "__main__":
    run_command(main)
