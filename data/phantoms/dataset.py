"""Write made-up data sets in the layouts of LUNA16 and NIH ChestX-ray14, for demonstrations and tests.

    python -m data.phantoms --d 3 --out DIR --count 6     chest CT: subset0..6/*.mhd, annotations.csv, candidates_V2.csv
    python -m data.phantoms --d 2 --out DIR --count 96    chest X-rays: images/*.png, Data_Entry_2017.csv

Both also write masks of lungs and nodules into masks/.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data.phantoms.ct import WIDTH, CtPhantom, draw_ct
from data.phantoms.xray import DIAMETERS, FINDINGS, draw_xray
from utils.atomic import whole_file
from utils.errors import UserError
from utils.seeding import numpy_generator

# LUNA16's subsets for pre-training.
SUBSETS = 7
# Default height of an image, its longest side, pixels.
MAX_SIDE = 320
# Probability of each of FINDINGS, drawn independently; about two in five images have none.
FINDING_SHARE = 0.2
# A file that marks a folder as a phantom data set and describes it, so that no other data is overwritten.
MARK = "MADE_UP.txt"


class PhantomSet(NamedTuple):
    """The names of scans (file names without ``.mhd``) or image files in a data set, and of those with a nodule."""

    names: list[str]
    with_nodule: list[str]


def make_ct(folder: str | Path, count: int, seed: int, *, size: float = WIDTH) -> PhantomSet:
    """Write ``count`` scans in the layout of LUNA16: scan i in ``subset{i % 7}``, with nodules where i is even.

    Scans are int16 HU; masks are uint8 in ``masks/{name}_lung.mhd`` and ``masks/{name}_nodule.mhd`` on the same grid.
    Scan i depends on the seed, i and the size only.

    Args:
        folder: new, empty, or with the same data set.
        count: scans, 1 or more.
        seed: the seed of all random draws.
        size: width of a scan in mm, 150 or more; below about 300, preprocessing's largest crops do not fit.

    Raises:
        UserError: the folder has other content, or cannot be written.
    """
    folder = _claim(folder, kind="chest CT", count=count, seed=seed, size=size)
    # With dots as in LUNA16, which code that uses Path.stem or Path.with_suffix would get wrong.
    names = [f"2.25.{100000 + i}" for i in range(count)]
    annotations: list[Sequence[Any]] = []
    candidates: list[Sequence[Any]] = []
    for i, name in enumerate(names):
        scan = draw_ct(numpy_generator(seed, "ct", name), with_nodules=i % 2 == 0, width=size)
        _write_scan(folder / f"subset{i % SUBSETS}" / name, scan.hu, scan)
        _write_scan(folder / "masks" / f"{name}_lung", scan.lung.astype(np.uint8), scan)
        _write_scan(folder / "masks" / f"{name}_nodule", scan.nodule.astype(np.uint8), scan)
        annotations += [(name, *nodule) for nodule in scan.nodules]
        candidates += [(name, nodule.x, nodule.y, nodule.z, 1) for nodule in scan.nodules]
        candidates += [(name, *point, 0) for point in scan.negatives]
    _write_table(folder / "candidates_V2.csv", "seriesuid,coordX,coordY,coordZ,class", candidates)
    _write_table(folder / "annotations.csv", "seriesuid,coordX,coordY,coordZ,diameter_mm", annotations)
    return PhantomSet(names, names[::2])


def make_xrays(folder: str | Path, count: int, seed: int, *, size: int = MAX_SIDE) -> PhantomSet:
    """Write ``count`` grey 8-bit images as in NIH ChestX-ray14, ``{patient}_{follow-up}.png``, 1 to 3 a patient.

    Masks are 8-bit PNGs of 0 and 255, ``masks/{stem}_lung.png`` and ``masks/{stem}_nodule.png``; the latter includes
    masses. Image i depends on the seed, i and the size only.

    Args:
        folder: new, empty, or with the same data set.
        count: images, 1 or more.
        seed: the seed of all random draws.
        size: height in pixels, 32 / 0.84 or more; the width is 0.84 to 0.96 of it.

    Raises:
        UserError: the folder has other content, or cannot be written.
    """
    folder = _claim(folder, kind="chest X-rays", count=count, seed=seed, size=size)
    rows: list[Sequence[Any]] = []
    with_nodule = []
    for patient, follow_up in islice(_patients(), count):
        name = f"{patient:08d}_{follow_up:03d}.png"
        rng = numpy_generator(seed, "xray", name)
        findings = tuple(finding for finding in FINDINGS if rng.random() < FINDING_SHARE)
        xray = draw_xray(rng, height=size, width=round(size * rng.uniform(0.84, 0.96)), findings=findings)
        stem = Path(name).stem
        _write_image(folder / "images" / name, xray.image)
        _write_image(folder / "masks" / f"{stem}_lung.png", xray.lung * np.uint8(255))
        _write_image(folder / "masks" / f"{stem}_nodule.png", xray.nodule * np.uint8(255))
        patient_rng = numpy_generator(seed, "patient", patient)
        age, gender = int(patient_rng.integers(18, 90)), "MF"[int(patient_rng.integers(2))]
        view = "PA" if rng.random() < 0.6 else "AP"
        label = "|".join(xray.findings) or "No Finding"
        rows.append((name, label, follow_up, patient, age, gender, view))
        if set(xray.findings) & set(DIAMETERS):
            with_nodule.append(name)
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    _write_table(folder / "Data_Entry_2017.csv", header, rows)
    return PhantomSet([row[0] for row in rows], with_nodule)


def _patients() -> Iterator[tuple[int, int]]:
    """Yield (patient, follow-up) endlessly: the 1st patient has 1 image, the 2nd 2, the 3rd 3, the 4th 1 ..."""
    for patient in count_from(1):
        for follow_up in range((patient - 1) % 3 + 1):
            yield patient, follow_up


def _claim(folder: str | Path, *, kind: str, count: int, seed: int, size: float) -> Path:
    """Make the folder and write the file that marks it as a phantom data set."""
    folder = Path(folder)
    mark = folder / MARK
    text = f"Made-up {kind}, no patient's: {count} of seed {seed}, size {size:g}.\n"
    try:
        if folder.exists() and any(folder.iterdir()) and not (mark.exists() and mark.read_text("utf-8") == text):
            raise UserError(
                f"--out: expected a new or empty folder, {folder} has other content; give another one, or remove it"
            )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: cannot write {folder}: {error.strerror or error}") from None
    _write(mark, lambda path: path.write_text(text, encoding="utf-8"))
    return folder


def _write_scan(stem: Path, array: np.ndarray, scan: CtPhantom) -> None:
    """Write ``array``, Z Y X of int16 or uint8 on the scan's grid, as MetaImage: ``{stem}.raw`` and ``{stem}.mhd``."""
    kind, stored = {"int16": ("MET_SHORT", "<i2"), "uint8": ("MET_UCHAR", "u1")}[array.dtype.name]
    x, y, z = scan.direction
    entries = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": False,
        "CompressedData": False,
        "TransformMatrix": f"{x} 0 0 0 {y} 0 0 0 {z}",
        "Offset": " ".join(map(str, scan.origin)),
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "RAI",
        "ElementSpacing": " ".join(map(str, scan.spacing)),
        "DimSize": " ".join(map(str, array.shape[::-1])),
        "ElementType": kind,
        "ElementDataFile": f"{stem.name}.raw",  # must be the last entry
    }
    header = "".join(f"{key} = {value}\n" for key, value in entries.items())
    _write(stem.with_name(f"{stem.name}.raw"), lambda path: path.write_bytes(array.astype(stored).tobytes()))
    _write(stem.with_name(f"{stem.name}.mhd"), lambda path: path.write_text(header, encoding="utf-8"))


def _write_image(path: Path, image: np.ndarray) -> None:
    _write(path, lambda path: Image.fromarray(image).save(path))


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        write(path)
    except OSError as error:
        raise UserError(f"--out: cannot write {path}: {error.strerror or error}") from None


def _write_table(path: Path, header: str, rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV table, whole or not at all; called last, so that a data set with tables is complete."""
    with whole_file(path, "w") as file:
        file.write(header + "\n")
        csv.writer(file, lineterminator="\n").writerows(rows)
