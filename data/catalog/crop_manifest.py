"""Read and write the files beside crops: a record for each scan, and the manifest of all records."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.catalog.folders import walk
from utils.atomic import whole_file

MANIFEST = "manifest.json"
# Bytes. File systems allow 255; the names of temporary files are longer by the machine's name.
LONGEST_NAME = 150
VOLUME_ENDING = "_volume.npy"
CROPS = re.compile(rf".+_(global|local)_\d+\.npy|.+{re.escape(VOLUME_ENDING)}")


def read_json(path: Path) -> Any:
    """The content of a JSON file; None where it is missing or incomplete."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def record_path(folder: Path, scan: str) -> Path:
    """The path of a scan's record: its crops and their settings, or why it failed.

    A long name is replaced by a digest, so that a failure can be recorded even where the crops' names are too long for
    the file system.

    Args:
        folder: of the crops.
        scan: its name as the crops' names begin.
    """
    encoded = os.fsencode(scan)
    short = len(encoded) <= LONGEST_NAME
    return folder / f"{scan if short else hashlib.blake2b(encoded, digest_size=12).hexdigest()}.json"


def read_record(path: Path) -> dict[str, Any] | None:
    """The record of a scan; None where it is missing or incomplete."""
    record = read_json(path)
    return record if isinstance(record, dict) and {"scan", "settings", "pairs"} <= record.keys() else None


def read_failures(save: Path) -> dict[str, str]:
    """Reasons of failed scans by name; empty without a manifest, as with crops of the published program."""
    manifest = read_json(save / MANIFEST)
    failures = manifest.get("failures") if isinstance(manifest, dict) else None
    return failures if isinstance(failures, dict) else {}


def read_manifest(save: Path, unrecorded: Mapping[str, str]) -> dict[str, Any]:
    """Collect the records of all scans and their totals.

    Args:
        save: the folder of the crops.
        unrecorded: reasons, by name, of failed scans that may have no record.
    """
    records, size = [], 0
    for folder in walk(save):
        for name in folder.files:
            path = save / folder.path / name
            if CROPS.fullmatch(name):
                with contextlib.suppress(FileNotFoundError):  # another process is replacing it
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
    """Write the manifest of all records so far; the last process to finish writes the complete one.

    Args:
        save: the folder of the crops.
        unrecorded: reasons of this process's failed scans, some of which may have no record. Other failures without a
            record are kept from the existing manifest, since another process added them.

    Returns:
        The manifest.

    Raises:
        UserError: the manifest cannot be written.
    """
    written, unrecorded_failures = None, read_failures(save) | dict(unrecorded)
    while written != (manifest := read_manifest(save, unrecorded_failures)):
        with whole_file(save / MANIFEST, "w") as file:
            json.dump(manifest, file, indent=1)
        written = manifest
    return manifest
