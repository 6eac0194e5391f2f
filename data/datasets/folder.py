"""A plain folder of images and masks for segmentation."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from data.catalog.file_index import find, require_folder
from data.catalog.joins import Side, note_join
from data.datasets.case_tables import TEST, read_patients, read_test_names
from data.datasets.cases import Case, ReadSpec, Region
from data.datasets.layout import Layout, require_complete
from data.readers.file_names import ending_of, stem_of
from data.readers.images import IMAGES
from data.readers.masks import MOST_LABELS, mask_values
from data.readers.volumes import VOLUMES
from utils.errors import UserError

MASKS = "masks"
# Masks with more values than this are probably photographs or other images.
MOST_CLASSES = 32


def find_folder(root: str | Path, dim: int, *, classes: int = 0, hounsfield: bool = False, max_side: int = 0) -> Layout:
    """Find ``images/*`` and ``masks/*`` of the same stem, and read ``patients.csv`` and ``test.txt``.

    Args:
        root: the data set's folder.
        dim: 2 for PNG or JPEG images with PNG masks, 3 for ``.nii``, ``.nii.gz``, ``.mhd``, ``.mha`` or ``.npy``.
        classes: the values of masks are 0 to this; 1: any value above 0 is the one class; 0: those found.
        hounsfield, max_side: as in :class:`data.datasets.cases.ReadSpec`.

    Raises:
        UserError: there are no images or no classes, an image has no mask, two files have one stem, or a table
            cannot be read.
    """
    root = require_folder(root)
    images = _by_stem(root / "images", IMAGES if dim == 2 else VOLUMES)
    masks = _by_stem(root / MASKS, (".png",) if dim == 2 else VOLUMES)
    unmasked = [path.name for stem, path in images.items() if stem not in masks]
    require_complete(root, [f"no mask of {name}" for name in unmasked], len(images), "images")
    unused = [path.name for stem, path in masks.items() if stem not in images]
    note_join(
        root, Side(len(images), "images", "with a mask", "without", unmasked),
        Side(len(masks), "masks", "with an image", "without: not used", unused),
    )  # fmt: skip
    patients = read_patients(root, images)
    cases = [Case(stem, patients[stem], (path,), masks[stem]) for stem, path in images.items()]
    regions = _regions(root, [masks[stem] for stem in images], dim, classes)
    known = (0, *sorted({label for region in regions for label in region.labels}))
    reading = ReadSpec(dim, known, hounsfield=hounsfield, max_side=max_side)
    return Layout(cases, read_test_names(root, images), TEST, regions, reading, exclusive=True)


def _by_stem(folder: Path, endings: Iterable[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in find(folder):
        if ending_of(path) in endings:
            if stem_of(path) in found:
                raise UserError(f"--data: expected one file of a name, got {found[stem_of(path)]} and {path}")
            found[stem_of(path)] = path
    if not found:
        raise UserError(f"--data: expected files of {', '.join(endings)} in {folder}, found none")
    return found


def _regions(root: Path, masks: Sequence[Path], dim: int, classes: int) -> tuple[Region, ...]:
    if classes == 1:
        return (Region("foreground", tuple(range(1, MOST_LABELS)), 1),)
    values = list(range(1, classes + 1)) if classes else mask_values(masks, dim)
    if not values:
        raise UserError(f"--data: expected masks with values above 0 in {root / MASKS}, all are 0; or give --classes")
    if len(values) > MOST_CLASSES and not classes:
        raise UserError(
            f"--data: expected up to {MOST_CLASSES} values in the masks of {root / MASKS}, found {len(values)}; are "
            "these masks? If so, give their number as --classes"
        )
    if len(values) == 1:
        return (Region("foreground", (values[0],), values[0]),)
    return tuple(Region(f"class_{value}", (value,), value) for value in values)
