"""The runs of ``main.py`` that a comparison is made of, and which of them each needs to have ended before it starts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from benchmarks.evidence.draws import lists_folder
from benchmarks.evidence.floor import probe_pixels
from benchmarks.evidence.settings import FINETUNED, FLOOR, FROZEN, SUPERVISED, YARDSTICKS, Arm, Settings
from benchmarks.evidence.yardstick import pretrain_yardstick
from data.catalog.list_folders import ListFolders
from downstream.finetune import finetune
from downstream.probe import probe
from downstream.tasks import BEST
from main import open_samples, pretrain
from utils.options import Options
from utils.world import World

DONE = "done.json"
# The first draws of labels, on which the learning rate of fine-tuning is chosen.
TRIAL_DRAWS = 2


class Job(Protocol):
    """One run, in a folder of its own; ``kind`` groups runs that take about the same time."""

    @property
    def kind(self) -> str: ...
    @property
    def keeps_weights(self) -> bool: ...
    def folder(self, settings: Settings) -> Path: ...
    def ready(self, settings: Settings) -> bool: ...
    def run(self, settings: Settings) -> None: ...


def is_done(job: Job, settings: Settings) -> bool:
    return (job.folder(settings) / DONE).exists()


class Pretraining(NamedTuple):
    """The pre-training of an arm."""

    arm: Arm
    steps: int
    ratio: float = 1.0

    @property
    def kind(self) -> str:
        return f"pre-training of {self.steps} steps" if self.steps else "pre-training as published"

    @property
    def keeps_weights(self) -> bool:
        return True

    def folder(self, settings: Settings) -> Path:
        ratio = "" if self.ratio == 1 else f"-{self.ratio:g}"
        return settings.out / "encoders" / f"{self.arm.name}-{self.steps}{ratio}"

    def ready(self, settings: Settings) -> bool:
        return True

    def run(self, settings: Settings) -> None:
        options = pretraining_options(self, settings)
        if self.arm.name in YARDSTICKS:
            pretrain_yardstick(self.arm.name, options, World())
        else:
            pretrain(options, World())

    def weight(self, settings: Settings) -> str:
        """The ``.pt`` of the last epoch."""
        files = self.folder(settings).glob("*_pretask_*.pt")
        return str(max(files, key=lambda path: int(path.stem.rpartition("_")[2])))


def pretraining_options(job: Pretraining, settings: Settings) -> Options:
    """The options of a pre-training, with the whole number of epochs that comes nearest to its steps."""
    assert job.arm.options is not None
    own = ("--lists", lists_folder(settings), "--output", job.folder(settings), "--ratio", job.ratio)
    options = settings.options("pretask", *own, *job.arm.options, "--resume", "auto")
    if job.steps:
        epochs = max(1, round(job.steps / max(1, samples_of(settings, job.ratio) // options.b)))
        options = settings.options("pretask", *own, "--epochs", epochs - 1, *job.arm.options, "--resume", "auto")
    return options


def samples_of(settings: Settings, ratio: float) -> int:
    """Number of samples that pre-train."""
    options = settings.options("pretask", "--output", settings.out, "--ratio", ratio)
    return len(open_samples(options, ListFolders.at(lists_folder(settings))))


class Supervised(NamedTuple):
    """The control: an encoder trained with all labels of the training split, which shows what there is to gain."""

    @property
    def kind(self) -> str:
        return "supervised control"

    @property
    def keeps_weights(self) -> bool:
        return True

    def folder(self, settings: Settings) -> Path:
        return settings.out / "encoders" / SUPERVISED

    def ready(self, settings: Settings) -> bool:
        return True

    def run(self, settings: Settings) -> None:
        rate = sorted(settings.rates)[len(settings.rates) // 2]
        finetune(settings.options(
            "finetune", "--weight", "none", "--ratio", 0, "--lists", lists_folder(settings), "--lr", rate,
            "--output", self.folder(settings), "--no-test", "--resume", "auto",
        ), World())  # fmt: skip


class Readout(NamedTuple):
    """An encoder frozen or fine-tuned with one draw of labels."""

    arm: Arm
    steps: int
    method: str
    """``'frozen'`` or FINETUNED."""
    percent: float
    draw: int
    trial_rate: float | None = None
    """The learning rate that is tried, without the test split; None for the readout itself, with the chosen rate."""
    of_rest: bool = False
    """Whether its encoder pre-trained on the rest of the list alone, as in the paper's protocol."""

    @property
    def kind(self) -> str:
        return f"{self.method}, {self.percent:g} % of the labels"

    @property
    def keeps_weights(self) -> bool:
        return False

    def encoder(self) -> Pretraining | Supervised | None:
        """The run that makes the encoder."""
        if self.arm.name == SUPERVISED:
            return Supervised()
        return None if self.arm.options is None else Pretraining(self.arm, self.steps, self.ratio or 1.0)

    @property
    def ratio(self) -> float:
        """The share of the list that this run leaves to pre-training."""
        return 1 - self.percent / 100 if self.of_rest else 0.0

    def folder(self, settings: Settings) -> Path:
        length = f"-{self.steps}" if self.arm.options is not None else ""
        trial = "" if self.trial_rate is None else f"-trial-{self.trial_rate:g}"
        name = f"{self.method}-{self.percent:g}-{self.draw}{trial}"
        return settings.out / "readouts" / f"{self.arm.name}{length}" / name

    def ready(self, settings: Settings) -> bool:
        encoder = self.encoder()
        return (encoder is None or is_done(encoder, settings)) and all(
            is_done(trial, settings) for trial in self.trials(settings)
        )

    def trials(self, settings: Settings) -> list["Readout"]:
        """The runs that choose the learning rate of this one."""
        if self.method != FINETUNED or self.trial_rate is not None or len(settings.rates) == 1:
            return []
        draws = range(trial_draws(settings))
        return [self._replace(draw=draw, trial_rate=rate) for rate in settings.rates for draw in draws]

    def weight(self, settings: Settings) -> str:
        encoder = self.encoder()
        if isinstance(encoder, Pretraining):
            return encoder.weight(settings)
        if isinstance(encoder, Supervised):
            return str(encoder.folder(settings) / BEST)
        return self.arm.weight or "none"

    def run(self, settings: Settings) -> None:
        lists = lists_folder(settings, self.percent, self.draw)
        # The seed is that of a random encoder, of the classifier and of the order; all arms are paired by it.
        shared = (
            "--lists",
            lists,
            "--ratio",
            self.ratio,
            "--seed",
            self.draw,
            "--output",
            self.folder(settings),
        )
        if self.arm.name == FLOOR:
            probe_pixels(settings.options("probe", "--weight", "none", *shared), whole=lists_folder(settings))
        elif self.method != FINETUNED:
            probe(settings.options("probe", "--weight", self.weight(settings), *shared), World())
        else:
            rate = self.trial_rate or self.chosen_rate(settings)
            test = "--test" if self.trial_rate is None else "--no-test"
            weight = self.weight(settings)
            arguments = ("--weight", weight, "--lr", rate, test, "--resume", "auto", *shared)
            finetune(settings.options("finetune", *arguments), World())

    def chosen_rate(self, settings: Settings) -> float:
        """The learning rate with the lowest mean validation loss over the trial draws."""
        losses: dict[float, list[float]] = {}
        for trial in self.trials(settings):
            assert trial.trial_rate is not None
            losses.setdefault(trial.trial_rate, []).append(best_valid_loss(trial.folder(settings)))
        return min(losses, key=lambda rate: sum(losses[rate])) if losses else settings.rates[0]


def trial_draws(settings: Settings) -> int:
    """On how many draws of labels a learning rate is chosen."""
    return min(TRIAL_DRAWS, settings.draws)


def best_valid_loss(folder: Path) -> float:
    """The lowest validation loss of a run."""
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return min(value for line in lines if (value := json.loads(line).get("valid_loss")) is not None)


def all_jobs(settings: Settings) -> list[Job]:
    """All runs, each after those that it needs, so that the first results come early."""
    jobs: list[Job] = []
    for readout in all_readouts(settings):
        encoder = readout.encoder()
        jobs += [*([] if encoder is None else [encoder]), *readout.trials(settings), readout]
    return list(dict.fromkeys(jobs))


def all_readouts(settings: Settings) -> Iterator[Readout]:
    """Every arm, length of pre-training, share and draw of labels, frozen and fine-tuned as asked for."""
    frozen = ["frozen"] if set(FROZEN) & set(settings.readouts) else []
    methods = [*frozen, *([FINETUNED] if FINETUNED in settings.readouts else [])]
    for arm in settings.arms:
        for steps in settings.steps if arm.options is not None else (0,):
            for method in methods if arm.name != FLOOR else frozen:
                for percent in settings.labels:
                    yield from (
                        Readout(arm, steps, method, percent, draw, of_rest=settings.paper)
                        for draw in range(settings.draws)
                    )
