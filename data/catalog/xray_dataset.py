"""The record of a 2D data set: what differs between data sets of X-rays, as values and functions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data.catalog.file_index import FileIndex
from data.catalog.labels import Labels
from data.catalog.names import NameList


class ListRequest(NamedTuple):
    """What lists are made from."""

    folder: Path
    """Where lists are written, as ``{name}_{split}.txt``."""
    root: Path
    """The data set's folder."""
    files: FileIndex
    """The images in it."""
    seed: int
    """Of the splits and of the order."""
    max_bad: float
    """Share of the rows of a table that may have no image."""
    test_list: Path | None
    """A test list that exists already: it is held out, and not made."""


class LabelRequest(NamedTuple):
    """What labels are read from."""

    root: Path
    """The data set's folder."""
    lists: Sequence[Path]
    """The training list and those of validation and test, if there are any; their lines may hold labels."""
    files: FileIndex
    """The images in it."""
    uncertain: str
    """What an uncertain label becomes: ``'ones'``, ``'zeros'`` or ``'ignore'``."""
    columns: Sequence[str] | None = None
    """The columns of a user's own table that are labels; None for all that can be."""


class LabelTable(NamedTuple):
    """Labels and patients of images, by their names in the index."""

    classes: tuple[str, ...]
    """The names of the labels, in their order."""
    labels: Labels
    """Image to its labels, 0, 1 or NaN where unknown; images without any are not in it."""
    patients_of: Callable[[Sequence[str]], list[str]]
    """Names of images to the patient ID of each."""


class XrayDataset(NamedTuple):
    """A 2D data set; its functions raise UserError where the data is not as expected."""

    index_images: Callable[[Path], FileIndex]
    """The data set's folder to its images by name."""
    make_lists: Callable[[ListRequest], None]
    """Writes ``{name}_train.txt``, and lists of other splits where the data set defines them."""
    read_labels: Callable[[LabelRequest], LabelTable]
    """Reads what fine-tuning and probes need."""
    clean: Callable[[NameList, FileIndex, Path], NameList] = lambda names, files, source: names
    """The names of a list to those of the index; the third is the list's path."""
    within: str = ""
    """Only images whose names begin so are expected in a list."""
    test_file: str = ""
    """A list in the data set's folder that is the test split where there is no other; empty for none."""
    read_views: Callable[[Path, FileIndex], Mapping[str, str]] | None = None
    """The view of each image of known view; None for data sets that are not chosen by view."""
    read_patients: Callable[[Path, FileIndex, Sequence[str]], list[str]] | None = None
    """The patient ID of each of some images, without labels; None where nobody asks."""


class Selection(NamedTuple):
    """Which images are used."""

    views: Sequence[str] | None = None
    """The views of these, in upper or lower case; None for all."""
    skip: str | Path | None = None
    """A list of names that are left out; None for none."""
