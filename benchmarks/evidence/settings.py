"""What is compared: data, arms, shares of labels, draws; and the options of ``main.py`` that all runs share."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from utils.errors import UsageError
from utils.options import DECLARED, PHASES, PROBE, Options, parse_options

RANDOM, SUPERVISED, FLOOR = "random", "supervised", "floor"
# Pre-trained by other methods, with the options of the arm "adamw".
YARDSTICKS = ("barlow_twins", "simsiam")
# How a share of the labels is read out of an encoder.
LINEAR, KNN, FINETUNED = READOUTS = ("linear", "knn", "finetuned")
FROZEN = (LINEAR, KNN)

_WITHOUT = "--loss_weights {:d} {:d} {:d} {:d}"
# Names of arms that users need not spell out, and the options of pre-training behind each, by dimension.
OPTIMIZERS = {
    2: {
        "published": "--optimizer sgd --lr 1e-2",
        "adamw": "--optimizer adamw --lr 1e-3 --weight_decay 0.05",
    },
    3: {
        "published": "--optimizer sgd --lr 1e-3",
        "adamw": "--optimizer adamw --lr 5e-4 --weight_decay 0.05",
    },
}
PARTS = {
    "pretrained": "",
    "no_restoration": _WITHOUT.format(0, 0, 1, 1),
    "no_intermediate": _WITHOUT.format(1, 0, 1, 1),
    "no_comparison": _WITHOUT.format(1, 1, 0, 0),
    "no_local": _WITHOUT.format(1, 1, 1, 0),
}
PRESETS = {
    dim: PARTS | optimizers | dict.fromkeys(YARDSTICKS, optimizers["adamw"]) for dim, optimizers in OPTIMIZERS.items()
}


# Weights may say how their crops were made; all arms see volumes alike, whatever their weights say.
VOLUMES_ALIKE = ("--crop", "64", "64", "32", "--intensity", "ct", "--spacing", "1")


def options_of_probes(words: Sequence[str]) -> tuple[str, ...]:
    """Return those of the options of fine-tuning, with their values, that probes have too: how data are read."""
    kept, shared = list[str](), False
    for word in words:
        if word.startswith("--"):
            name = word[2:].partition("=")[0].replace("-", "_").removeprefix("no_")
            shared = name in DECLARED and PROBE in (DECLARED[name].phases or PHASES)
        if shared:
            kept.append(word)
    return tuple(kept)


class Arm(NamedTuple):
    """One encoder to be compared: where its weights come from."""

    name: str
    options: tuple[str, ...] | None = None
    """Options of the pre-training that makes it; None if it is not pre-trained here."""
    weight: str | None = None
    """A ``.pt`` file of any origin."""


def parse_arm(text: str, dim: int) -> Arm:
    """Read an arm: ``random``, ``supervised``, ``floor``, a preset, ``NAME=FILE.pt`` or ``NAME=--options``.

    Raises:
        UsageError: it is none of these.
    """
    name, equals, value = text.partition("=")
    if name.startswith("-") or not name or set(name) & set("/ |"):
        raise UsageError(f"--arms: expected a name before =, without blanks, got {text!r}")
    if not equals:
        if name in (RANDOM, SUPERVISED, FLOOR):
            return Arm(name)
        if name in PRESETS[dim]:
            return Arm(name, options=tuple(shlex.split(PRESETS[dim][name])))
        known = ", ".join((RANDOM, SUPERVISED, FLOOR, *PRESETS[dim]))
        raise UsageError(f"--arms: expected one of {known}, NAME=FILE.pt or NAME=OPTIONS, got {text!r}")
    if value.lstrip().startswith("--"):
        return Arm(name, options=tuple(shlex.split(value)))
    if not Path(value).expanduser().is_file():
        raise UsageError(f"--arms: expected a file of weights or options that begin with --, got {text!r}")
    return Arm(name, weight=str(Path(value).expanduser()))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides what is measured."""

    out: Path
    data: str
    """Folder of the labelled data."""
    pretraining_data: str
    """Folder that is pre-trained on; for LUNA16 that of its crops."""
    n: str
    d: int
    arms: tuple[Arm, ...]
    steps: tuple[int, ...]
    """Lengths of pre-training, one run each."""
    labels: tuple[float, ...]
    """Percent of the training patients whose labels are used."""
    draws: int
    """Sets of labelled patients for each share, the same for all arms."""
    readouts: tuple[str, ...]
    rates: tuple[float, ...]
    """Learning rates of fine-tuning to choose from on the validation split."""
    common: tuple[str, ...]
    """Options of ``main.py`` for every run."""
    pretraining: tuple[str, ...]
    finetuning: tuple[str, ...]
    lists: str | None = None
    """Folder of the data set's own lists; None: they are made."""
    paper: bool = False
    """The paper's protocol: the first part of the training list pre-trains, the rest fine-tunes."""

    def options(self, phase: str, *arguments: object) -> Options:
        """The options of one run of ``main.py``.

        Args:
            phase: ``'pretask'``, ``'finetune'`` or ``'probe'``.
            arguments: words of the command line, which win over the shared ones.

        Raises:
            SystemExit: as ``main.py`` does, if an option is wrong.
        """
        # Probes read the data as fine-tuning does.
        own = {"pretask": self.pretraining, "finetune": self.finetuning, "probe": options_of_probes(self.finetuning)}
        data = self.pretraining_data if phase == "pretask" else self.data
        words = ("--data", data, "--n", self.n, "--d", self.d, "--phase", phase, *self.common, *own[phase], *arguments)
        return parse_options([str(word) for word in words])
