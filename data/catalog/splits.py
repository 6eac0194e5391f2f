"""Training, validation and test split by patient."""

from collections.abc import Sequence, Set
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


class Listed(NamedTuple):
    """The names of a list, and the patient ID of each."""

    names: Sequence[str]
    patients: Sequence[str]

    def without(self, patients: Set[str]) -> "tuple[Listed, list[str]]":
        """Return those of other patients, and the names of the given ones."""
        pairs = list(zip(self.names, self.patients, strict=True))
        kept = [(name, patient) for name, patient in pairs if patient not in patients]
        return Listed(*map(list, zip(*kept, strict=True))) if kept else NONE, [n for n, p in pairs if p in patients]


NONE = Listed((), ())


def split_by_patient(rest: Listed, *, test: Listed = NONE, valid: Listed = NONE, seed: int) -> Splits:
    """Split samples into training, validation and test split.

    A patient of a test list is in no other split, and one of a validation list is not in the training split; what is
    left out for that is reported on stderr.

    Args:
        rest: the rest of the training list after ``--ratio``.
        test: a test list; if it is empty, a fifth of the other patients are held out.
        valid: a validation list; if it is empty, or names only patients of the test list, a tenth of the patients are
            held out.
        seed: of the splits.

    Raises:
        UserError: a split would have no patient.
    """
    total, test_names = rest, list(test.names)
    test_patients = set(test.patients)
    if not test.names:
        free, _ = rest.without(set(valid.patients))
        test_patients = held_out(free.patients, TEST_SHARE, seed=seed, purpose="test") if free.names else set()
        test_names = [name for name, patient in zip(*rest, strict=True) if patient in test_patients]
    valid, shared = valid.without(test_patients)
    _note_shared("validation list", valid, shared, "the test list's", "; a tenth of the patients are held out instead")
    rest, shared = rest.without(test_patients)
    _note_shared("test list", rest, shared if test.names else [], "its")
    valid_patients = set(valid.patients)
    if not valid.names and rest.names:
        valid_patients = held_out(rest.patients, VALID_SHARE, seed=seed, purpose="validation")
    train, shared = rest.without(valid_patients)
    _note_shared("validation list", train, shared if valid.names else [], "its")
    splits = Splits(list(train.names), list(valid.names) or shared, test_names)
    if not all(splits):
        raise UserError(
            f"--ratio: expected a patient at least to train on, one to choose the epoch and one to test, got "
            f"{len(total.names)} images of {len(set(total.patients))} patients after the share that pre-trains; give a "
            "smaller --ratio, or data of more patients"
        )
    return splits


def _note_shared(source: str, kept: Listed, shared: Sequence[str], whose: str, if_none: str = "") -> None:
    """Report names that are left out of a split since their patient is in another one."""
    if shared:
        unmatched = f"of {whose} patients: left out" + ("" if kept.names else if_none)
        note_join(source, Side(len(kept.names) + len(shared), "names", "of other patients", unmatched, shared))
