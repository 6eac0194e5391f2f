"""Training, validation and test split by patient."""

from collections.abc import Sequence
from typing import NamedTuple

from data.catalog.joins import Side, note_join
from utils.errors import UserError
from utils.seeding import seed_of

# Shares of the patients for fine-tuning: the validation split, and the test split if there is no test list.
VALID_SHARE, TEST_SHARE = 0.1, 0.2


class Splits(NamedTuple):
    """Names of the images of each split; no patient is in two of them."""

    train: list[str]
    valid: list[str]
    test: list[str]


def held_out(patients: Sequence[str], share: float, *, seed: int, purpose: str) -> set[str]:
    """Choose a share of the patients, at least one, which depends only on the seed and their IDs."""
    order = sorted(set(patients), key=lambda patient: (seed_of(seed, purpose, patient), patient))
    return set(order[: max(1, round(share * len(order)))])


def split_by_patient(
    names: Sequence[str], patients: Sequence[str], *, test: Sequence[str], test_patients: Sequence[str], seed: int
) -> Splits:
    """Split names into training, validation and test split.

    Args:
        names: the rest of the training list after ``--ratio``.
        patients: patient ID of each.
        test: the names of a test list; if it is empty, a fifth of the patients are held out.
        test_patients: patient ID of each of these; they are removed from the other splits, which is reported on stderr.
        seed: of both splits.

    Raises:
        UserError: a split would have no patient.
    """
    rest, test_names = list(zip(names, patients, strict=True)), list(test)
    excluded = set(test_patients)
    if not test_names and rest:
        excluded = held_out(patients, TEST_SHARE, seed=seed, purpose="test")
        test_names = [name for name, patient in rest if patient in excluded]
    shared = [name for name, patient in rest if patient in excluded] if test else []
    if shared:
        note_join("test list", Side(len(names), "names", "of other patients", "of its patients: left out", shared))
    rest = [(name, patient) for name, patient in rest if patient not in excluded]
    valid = held_out([p for _, p in rest], VALID_SHARE, seed=seed, purpose="validation") if rest else set()
    splits = Splits([n for n, p in rest if p not in valid], [n for n, p in rest if p in valid], test_names)
    if not all(splits):
        raise UserError(
            f"--ratio: expected a patient at least to train on, one to choose the epoch and one to test, got "
            f"{len(names)} images of {len(set(patients))} patients after the share that pre-trains; give a "
            "smaller --ratio"
        )
    return splits
