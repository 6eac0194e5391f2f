"""NIH ChestX-ray14 and CheXpert as people have them on disk: folders, metadata, and the lists made from these."""

from pathlib import Path

from data.catalog.file_index import FileIndex, names_in, require_folder
from data.catalog.lists import list_path, read_names, seeded_order, write_list_once
from data.readers.tables import read_columns
from utils.errors import UserError
from utils.seeding import seed_of

ENDINGS = (b".png", b".jpg", b".jpeg")
# The 14 findings in the order of the published lists' columns.
FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
# Shares of patients that the published lists have: 78,468, 11,218 and 22,433 of 112,119 images.
VALID_SHARE, TEST_SHARE = 0.1, 0.2


def index_chest(root: str | Path) -> FileIndex:
    """NIH's images: ``root`` itself, its ``images/``, or ``images_001/images/`` ... as the archives unpack.

    Raises:
        UserError: no such folder, or no images in it.
    """
    root = require_folder(root)
    candidates = (root / "images", *sorted(root.glob("images_*/images")))
    folders = [folder for folder in candidates if folder.is_dir()] or [root]
    names = [names_in(folder, ENDINGS) for folder in folders]
    if not any(len(part) for part in names):
        raise UserError(f"--data: expected PNG or JPEG images in {root} or its images/, found none")
    filled = [(folder, part) for folder, part in zip(folders, names, strict=True) if len(part)]
    return FileIndex(*zip(*filled, strict=True))


def make_chest_lists(root: str | Path, lists: str | Path, index: FileIndex, *, seed: int) -> None:
    """Make ``chest_train.txt``, and ``chest_valid.txt`` and ``chest_test.txt`` where there are labels, and keep them.

    NIH's ``test_list.txt`` is held out where it is there; else a fifth of the patients. A tenth validates. Without
    ``Data_Entry_2017*.csv`` there are no labels, nothing to test, and all images pre-train.
    """
    top = Path(root) if not Path(root).name.startswith("images") else Path(root).parent
    names = list(index.names)
    table = next(iter(sorted(top.glob("Data_Entry_2017*.csv"))), None)
    official = top / "test_list.txt"
    test = set(read_names(official)) if official.exists() else set()
    if table is None:
        kept = seeded_order((name for name in names if name not in test), seed)
        write_list_once(list_path(lists, "chest", "train"), kept, source=f"the images of {root}")
        return
    labels = read_findings(table)
    # The training list is written last: where it is, all are, whoever else makes them or was killed while doing so.
    parts: dict[str, list[str]] = {"valid": [], "test": [], "train": []}
    for name in seeded_order(names, seed):
        place = seed_of(seed, "patient", name.partition("_")[0]) / 2**63
        held_out = name in test if test else place >= 1 - TEST_SHARE
        part = "test" if held_out else "valid" if place < VALID_SHARE else "train"
        parts[part].append(" ".join([name, *map(str, labels.get(name, (0,) * len(FINDINGS)))]))
    for part, lines in parts.items():
        write_list_once(list_path(lists, "chest", part), lines, source=table.name)


def read_findings(table: Path) -> dict[str, tuple[int, ...]]:
    """Image name to its 14 labels, from NIH's ``Data_Entry_2017*.csv``.

    Raises:
        UserError: the table cannot be read, lacks its columns, or was cut short.
    """
    rows = [(name, found.split("|")) for name, found in read_columns(table, "Image Index", "Finding Labels")]
    return {name: tuple(int(finding in found) for finding in FINDINGS) for name, found in rows}
