"""Which patient goes into which split."""

from collections.abc import Sequence
from typing import NamedTuple

from data.catalog.joins import Side, note_join
from utils.errors import UserError
from utils.seeding import seed_of

# Of the patients that fine-tune: those that choose the epoch, and those that test where no list says which do.
VALID_SHARE, TEST_SHARE = 0.1, 0.2


class Splits(NamedTuple):
    """Names of the images of each split; no patient is in two of them."""

    train: list[str]
    valid: list[str]
    test: list[str]


def held_out(patients: Sequence[str], share: float, *, seed: int, purpose: str) -> set[str]:
    """A share of the patients, one at least, in an order that depends on the seed and on their names alone."""
    order = sorted(set(patients), key=lambda patient: (seed_of(seed, purpose, patient), patient))
    return set(order[: max(1, round(share * len(order)))])


def split_by_patient(
    names: Sequence[str], patients: Sequence[str], *, test: Sequence[str], test_patients: Sequence[str], seed: int
) -> Splits:
    """Training, validation and test split.

    Args:
        names: what may fine-tune, the rest of the list after ``--ratio``.
        patients: patient ID of each.
        test: the names of a test list; empty where there is none: a fifth of the patients are then held out.
        test_patients: patient ID of each of these; they are taken out of the other splits, which is said on stderr.
        seed: of both splits.

    Raises:
        UserError: too few patients for every split to have one.
    """
    rest, testing = list(zip(names, patients, strict=True)), list(test)
    away = set(test_patients)
    if not testing and rest:
        away = held_out(patients, TEST_SHARE, seed=seed, purpose="test")
        testing = [name for name, patient in rest if patient in away]
    shared = [name for name, patient in rest if patient in away] if test else []
    if shared:
        note_join("test list", Side(len(names), "names", "of other patients", "of its patients: left out", shared))
    rest = [(name, patient) for name, patient in rest if patient not in away]
    choosing = held_out([p for _, p in rest], VALID_SHARE, seed=seed, purpose="validation") if rest else set()
    splits = Splits([n for n, p in rest if p not in choosing], [n for n, p in rest if p in choosing], testing)
    if not all(splits):
        raise UserError(
            f"--ratio: expected a patient at least to train on, one to choose the epoch and one to test, got "
            f"{len(names)} images of {len(set(patients))} patients after the share that pre-trains; give a "
            "smaller --ratio"
        )
    return splits
