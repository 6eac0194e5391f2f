"""What ``luna_preprocess.py`` keeps beside crops: a record of each scan, and the manifest of them all."""

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.catalog.folders import walk
from utils.atomic import whole_file

MANIFEST = "manifest.json"
CROPS = re.compile(r".+_(global|local)_\d+\.npy")


def read_json(path: Path) -> Any:
    """What a file holds; None where there is none, or none that is whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_record(path: Path) -> dict[str, Any] | None:
    """The record of a scan, or None where there is none, or none that is whole."""
    record = read_json(path)
    return record if isinstance(record, dict) and {"scan", "settings", "pairs"} <= record.keys() else None


def read_failures(save: Path) -> dict[str, str]:
    """The scans that gave no crops, and why; empty where there is no manifest, as of the published program's crops."""
    manifest = read_json(save / MANIFEST)
    failures = manifest.get("failures") if isinstance(manifest, dict) else None
    return failures if isinstance(failures, dict) else {}


def read_manifest(save: Path, unrecorded: Mapping[str, str]) -> dict[str, Any]:
    """The records of all scans and their totals.

    Args:
        save: the folder of the crops.
        unrecorded: why scans failed that may have no record, by name.
    """
    records, size = [], 0
    for folder in walk(save):
        for name in folder.files:
            path = save / folder.path / name
            if CROPS.fullmatch(name):
                with contextlib.suppress(FileNotFoundError):  # another process makes it anew
                    size += path.stat().st_size
            elif name.endswith(".json") and (record := read_record(path)):
                records.append(record)
    failures = {record["scan"]: record["failure"] for record in records if "failure" in record}
    recorded = {record["scan"] for record in records}
    return {
        "scans": len(records),
        "pairs": sum(record["pairs"] for record in records),
        "failures": {name: reason for name, reason in unrecorded.items() if name not in recorded} | failures,
        "bytes": size,
        "records": records,
    }


def write_manifest(save: Path, unrecorded: Mapping[str, str]) -> dict[str, Any]:
    """Write what all processes together have made so far; the last one to finish writes it in full.

    Args:
        save: the folder of the crops.
        unrecorded: why scans of this process failed, of which some may have no record. What the manifest says of others
            without one is kept: another process knew why.

    Returns:
        The manifest.

    Raises:
        UserError: it cannot be written.
    """
    written, kept = None, read_failures(save) | dict(unrecorded)
    while written != (manifest := read_manifest(save, kept)):
        with whole_file(save / MANIFEST, "w") as file:
            json.dump(manifest, file, indent=1)
        written = manifest
    return manifest
