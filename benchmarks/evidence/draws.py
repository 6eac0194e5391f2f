"""The lists that runs read: the splits of the data set, and draws of labelled patients from its training split."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.evidence.settings import Settings
from data.catalog.list_folders import SPLITS, ListFolders
from data.catalog.lists import list_path
from data.catalog.name_matching import listed_name
from downstream.finetune import RECIPES
from downstream.tasks import RunContext, Split
from utils.atomic import whole_file
from utils.errors import UserError
from utils.seeding import seed_of
from utils.world import World

LISTS, PATIENTS = "lists", "patients.json"
LEAST_PATIENTS = 2


def lists_folder(settings: Settings, percent: float = 100, draw: int | None = None) -> Path:
    """The folder of the lists of a draw; without one, of the whole data set."""
    name = "all" if draw is None or settings.paper else f"{percent:g}-{draw}"
    return settings.out / LISTS / name


def prepare_lists(settings: Settings) -> None:
    """Write the lists of the whole data set and of all draws, unless they are there.

    Validation and test split are the same in every draw. A smaller share of the labels is the beginning of a larger.

    Raises:
        UserError: the data set has too few patients for a share, or is not as expected.
    """
    whole = lists_folder(settings)
    if not (whole / PATIENTS).exists():
        _write_whole(settings, whole)
    if settings.paper:
        return
    patients = read_patients(settings)["train"]
    for draw in range(settings.draws):
        order = sorted(set(patients.values()), key=lambda patient: (seed_of("draw", draw, patient), patient))
        for percent in settings.labels:
            count = max(LEAST_PATIENTS, math.ceil(len(order) * percent / 100))
            chosen = set(order[:count])
            _write_draw(settings, whole, lists_folder(settings, percent, draw), chosen, patients)


def read_patients(settings: Settings) -> dict[str, dict[str, str]]:
    """The patient of each entry of the training list, and of each sample of the test split by its name."""
    return json.loads((lists_folder(settings) / PATIENTS).read_text("utf-8"))


def _write_whole(settings: Settings, folder: Path) -> None:
    """Make the three lists by the program itself, which knows each data set's splits, and note the patients."""
    folder.mkdir(parents=True, exist_ok=True)
    if settings.lists:
        for path in Path(settings.lists).glob(f"{settings.n}_*.txt"):
            shutil.copyfile(path, folder / path.name)
    options = settings.options(
        "finetune", "--weight", "none", "--ratio", 0, "--output", folder, "--lists", folder, "--device", "cpu"
    )
    splits = RECIPES[settings.n](RunContext(options, World(), torch.device("cpu"), ListFolders.at(folder))).splits
    entries = {split: _entries(settings, getattr(splits, split)) for split in SPLITS}
    lines = _lines_of(folder, settings.n)
    for split in SPLITS:
        # The training list of the paper's protocol stays as it is, since its order decides what pre-trains.
        if not (settings.paper and split == "train"):
            _write_list(list_path(folder, settings.n, split), [lines.get(name, name) for name in entries[split]])
    test = {splits.test.name(i): patient for i, patient in enumerate(splits.test.patients)}
    with whole_file(folder / PATIENTS, "w") as file:
        json.dump({"train": entries["train"], "test": test}, file)


def _entries(settings: Settings, split: Split) -> dict[str, str]:
    """The names that stand in a list for the samples of a split, with the patient of each."""
    if settings.n == "luna":  # its lists name scans, of which each has many candidates
        return {patient: patient for patient in split.patients}
    return {listed_name(split.name(i)): patient for i, patient in enumerate(split.patients)}


def _lines_of(folder: Path, n: str) -> dict[str, str]:
    """Whole lines of the lists by their names, since a line may hold labels."""
    paths = [path for split in SPLITS if (path := list_path(folder, n, split)).exists()]
    lines = [line for path in paths for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    return {line.split()[0]: line for line in lines}


def _write_draw(settings: Settings, whole: Path, folder: Path, chosen: set[str], patients: Mapping[str, str]) -> None:
    if (train := list_path(folder, settings.n, "train")).exists():
        return
    lines = list_path(whole, settings.n, "train").read_text("utf-8").splitlines()
    kept = [line for line in lines if patients[line.split()[0]] in chosen]
    if not kept:
        raise UserError(f"--labels: a draw of {len(chosen)} patients has no images; give a larger share")
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("valid", "test"):
        shutil.copyfile(list_path(whole, settings.n, split), list_path(folder, settings.n, split))
    _write_list(train, kept)


def _write_list(path: Path, lines: Sequence[str]) -> None:
    with whole_file(path, "w") as file:
        file.writelines(line + "\n" for line in lines)
