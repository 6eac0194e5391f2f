"""A plain folder of images and masks."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from data.catalog.file_index import find, require_folder
from data.catalog.lists import read_names
from data.datasets.cases import Case, ReadSpec, Region
from data.datasets.layout import Layout, require_complete
from data.readers.file_names import ending_of, stem_of
from data.readers.images import IMAGES
from data.readers.masks import MOST_LABELS, mask_values
from data.readers.tables import read_table
from data.readers.volumes import VOLUMES
from utils.errors import UserError

# More values than this, and a mask is likelier a photograph.
MOST_CLASSES = 32


def find_folder(root: str | Path, dim: int, *, classes: int = 0, hounsfield: bool = False, longest: int = 0) -> Layout:
    """``images/*`` and ``masks/*`` of the same name but for the ending, ``patients.csv`` and ``test.txt`` if there.

    Args:
        root: the data set's folder.
        dim: 2 for PNG or JPEG images with PNG masks, 3 for ``.nii``, ``.nii.gz``, ``.mhd``, ``.mha`` or ``.npy``.
        classes: the values of masks are 0 to this; with 1 any value above 0 is the one class; 0: those found in them.
        hounsfield, longest: as in :class:`data.datasets.cases.ReadSpec`.

    Raises:
        UserError: no images, an image without a mask, or two of one name; a table that is no table; no classes.
    """
    root = require_folder(root)
    images = _by_stem(root / "images", IMAGES if dim == 2 else VOLUMES)
    masks = _by_stem(root / "masks", (".png",) if dim == 2 else VOLUMES)
    require_complete(
        root, [f"no mask of {path}" for stem, path in images.items() if stem not in masks], len(images), "images"
    )
    patients = _read_patients(root / "patients.csv", images)
    cases = [Case(stem, patients.get(stem, stem), (path,), masks[stem]) for stem, path in images.items()]
    regions = _regions(root, [case.mask for case in cases], dim, classes)
    known = (0, *sorted({label for region in regions for label in region.labels}))
    listed = root / "test.txt"
    test = [_known_stem(name, images, listed) for name in read_names(listed)] if listed.exists() else []
    reading = ReadSpec(dim, known, hounsfield=hounsfield, longest=longest)
    return Layout(cases, test, "test.txt", regions, reading, exclusive=True)


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


def _known_stem(name: str, images: dict[str, Path], source: Path) -> str:
    """A name with or without its ending."""
    for stem in (name, stem_of(Path(name))):
        if stem in images:
            return stem
    raise UserError(f"{source}: expected names of images, there is no {name!r}")


def _read_patients(path: Path, images: dict[str, Path]) -> dict[str, str]:
    """Stem to patient; those that the table leaves out are patients of their own."""
    if not path.exists():
        return {}
    rows = read_table(path, ("name", "patient"))
    return {_known_stem(row["name"], images, path): row["patient"] for row in rows}


def _regions(root: Path, masks: Sequence[Path], dim: int, classes: int) -> tuple[Region, ...]:
    if classes == 1:
        return (Region("foreground", tuple(range(1, MOST_LABELS)), 1),)
    values = list(range(1, classes + 1)) if classes else mask_values(masks, dim)
    if not values:
        raise UserError(f"--data: expected masks with values above 0 in {root / 'masks'}, all are 0; or give --classes")
    if len(values) > MOST_CLASSES and not classes:
        raise UserError(
            f"--data: expected up to {MOST_CLASSES} values in the masks of {root / 'masks'}, found {len(values)}; are "
            "these masks? If so, give their number as --classes"
        )
    if len(values) == 1:
        return (Region("foreground", (values[0],), values[0]),)
    return tuple(Region(f"class_{value}", (value,), value) for value in values)
