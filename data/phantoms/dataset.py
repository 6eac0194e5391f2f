"""Made-up data sets, in the layouts of LUNA16 and NIH ChestX-ray14, for demonstrations and tests: no patient's data.

    python -m data.phantoms --d 3 --out DIR --count 6     chest CT: subset0..6/*.mhd, annotations.csv, candidates_V2.csv
    python -m data.phantoms --d 2 --out DIR --count 96    chest X-rays: images/*.png, Data_Entry_2017.csv

Both also write what is lung and what is nodule, in masks/.
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

# LUNA16's subsets that pre-train.
SUBSETS = 7
# An image's longest side, pixels.
LONGEST = 320
# Of FINDINGS, each drawn by itself: some two in five images have none.
FINDING_SHARE = 0.2
# Says that a folder is one of ours, and which, so that no other data is ever written over.
MARK = "MADE_UP.txt"


class PhantomSet(NamedTuple):
    """What a set holds: names of scans (file names without ``.mhd``) or of image files, and those with a nodule."""

    names: list[str]
    with_nodule: list[str]


def make_ct(folder: str | Path, count: int, seed: int, *, size: float = WIDTH) -> PhantomSet:
    """Write ``count`` scans as LUNA16 has them, scan i in ``subset{i % 7}``, nodules in every other one from the first.

    Scans are int16 HU, masks uint8 in ``masks/{name}_lung.mhd`` and ``masks/{name}_nodule.mhd``, on the scan's grid.
    Scan i depends on the seed, i and the size alone.

    Args:
        folder: new, empty, or holding the same set.
        count: scans, 1 or more.
        seed: what all randomness comes from.
        size: width of a scan in mm, 150 or more; below about 300 it has no room for preprocessing's largest crops.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    folder = _claim(folder, kind="chest CT", count=count, seed=seed, size=size)
    # As in LUNA16 a name has dots, which Path.stem and Path.with_suffix cut at.
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


def make_xrays(folder: str | Path, count: int, seed: int, *, size: int = LONGEST) -> PhantomSet:
    """Write ``count`` grey 8-bit images as NIH has them, names ``{patient}_{follow-up}.png``, 1 to 3 a patient.

    Masks are 8-bit PNGs of 0 and 255, ``masks/{stem}_lung.png`` and ``masks/{stem}_nodule.png``; the latter shows
    masses too, and is all 0 where there is neither. Image i depends on the seed, i and the size alone.

    Args:
        folder: new, empty, or holding the same set.
        count: images, 1 or more.
        seed: what all randomness comes from.
        size: height in pixels, 32 / 0.84 or more; the width is 0.84 to 0.96 of it.

    Raises:
        UserError: the folder holds something else, or cannot be written.
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
        person = numpy_generator(seed, "patient", patient)
        age, gender = int(person.integers(18, 90)), "MF"[int(person.integers(2))]
        view = "PA" if rng.random() < 0.6 else "AP"
        label = "|".join(xray.findings) or "No Finding"
        rows.append((name, label, follow_up, patient, age, gender, view))
        if set(xray.findings) & set(DIAMETERS):
            with_nodule.append(name)
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    _write_table(folder / "Data_Entry_2017.csv", header, rows)
    return PhantomSet([row[0] for row in rows], with_nodule)


def _patients() -> Iterator[tuple[int, int]]:
    """(patient, follow-up) without end: the 1st patient has 1 image, the 2nd 2, the 3rd 3, the 4th 1 ..."""
    for patient in count_from(1):
        for follow_up in range((patient - 1) % 3 + 1):
            yield patient, follow_up


def _claim(folder: str | Path, *, kind: str, count: int, seed: int, size: float) -> Path:
    """Make the folder and mark it as ours."""
    folder = Path(folder)
    mark = folder / MARK
    text = f"Made-up {kind}, no patient's: {count} of seed {seed}, size {size:g}.\n"
    try:
        if folder.exists() and any(folder.iterdir()) and not (mark.exists() and mark.read_text("utf-8") == text):
            raise UserError(
                f"--out: expected a new or empty folder, {folder} holds something else; give another one, or remove it"
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
        "ElementDataFile": f"{stem.name}.raw",  # the format asks for this entry to be the last
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
    """Tables come last, and whole: where they are, the set is complete."""
    with whole_file(path, "w") as file:
        file.write(header + "\n")
        csv.writer(file, lineterminator="\n").writerows(rows)
