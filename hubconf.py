"""Entry points of ``torch.hub``, see "Weights in other programs" in docs/finetuning.md.

>>> encoder = torch.hub.load("PATH/TO/THIS/FOLDER", "encoder", source="local", dim=3, weights="LUNA.pt")
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

dependencies = ["torch", "torchvision", "segmentation_models_pytorch"]

HERE = Path(__file__).resolve().parent
# The packages that loading an encoder imports, and what they are called in a program that has loaded one.
OWN, ALIAS = ("models", "utils"), "pcrlv2_hub"


def encoder(dim: int, weights: str, in_channels: int | None = None, norm: str = "bn") -> Any:
    """Return a pre-trained encoder, every entry of which comes from the file.

    Args:
        dim: 2 for the ResNet18 of X-rays, 3 for the 3D encoder.
        weights: a ``.pt`` file of this program or of the authors, or a safetensors file.
        in_channels: channels of the input; by default as many as the file's weights have.
        norm: normalisation of the network in the file: ``bn``, ``gn`` or ``in``.

    Returns:
        A module that maps B C *S to the list of its stages' features.

    Raises:
        ValueError: the file cannot be read or belongs to another network, or an argument is wrong; one line.
    """
    with _own_packages():
        pretrained, errors = (importlib.import_module(name) for name in ("models.pretrained", "utils.errors"))
        try:
            return pretrained.load_encoder(weights, dim, in_channels=in_channels, norm=norm)
        except errors.UserError as error:
            raise ValueError(str(error)) from None


@contextmanager
def _own_packages() -> Iterator[None]:
    """Make ``models`` and ``utils`` the packages of this folder, and afterwards the caller's again.

    torch.hub puts this folder first in ``sys.path`` while it loads, but packages of these names that the caller has
    imported would be found instead, and ours would be in the way of the caller's later. So the caller's are set aside,
    and ours are renamed to ``pcrlv2_hub.models`` and so on, under which pickle and torch.compile find them.
    """
    if _is_ours("models") and _is_ours("utils"):  # a program within this folder
        yield
        return
    theirs = _taken_out(lambda name: name.partition(".")[0] in OWN)
    sys.modules.update({name.removeprefix(f"{ALIAS}."): module for name, module in _loaded_before().items()})
    try:
        yield
    finally:
        ours = _taken_out(lambda name: name.partition(".")[0] in OWN)
        sys.modules.setdefault(ALIAS, ModuleType(ALIAS))
        sys.modules.update({f"{ALIAS}.{name}": module for name, module in ours.items()} | theirs)
        for module in ours.values():
            _rename(module)


def _is_ours(package: str) -> bool:
    found = getattr(sys.modules.get(package), "__file__", None)
    return found is not None and HERE in Path(found).resolve().parents


def _loaded_before() -> dict[str, Any]:
    return {name: module for name, module in sys.modules.items() if name.startswith(f"{ALIAS}.")}


def _taken_out(wanted: Any) -> dict[str, Any]:
    return {name: sys.modules.pop(name) for name in [*sys.modules] if wanted(name)}


def _rename(module: Any) -> None:
    """Give a module, and the classes and functions that it defines, its name in the caller's program."""
    before = module.__name__.removeprefix(f"{ALIAS}.")
    module.__name__ = f"{ALIAS}.{before}"
    for value in vars(module).values():
        if getattr(value, "__module__", None) == before:
            value.__module__ = module.__name__
