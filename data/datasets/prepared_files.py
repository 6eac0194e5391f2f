"""Arrays in a folder that were prepared from files, made when first needed and later mapped into memory."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data.catalog.joins import first_names
from data.readers.arrays import read_array
from data.readers.volumes import Source, source_files
from utils.atomic import whole_file
from utils.errors import UserError
from utils.fingerprint import fingerprint_of
from utils.notes import note

# Bytes of a name in a file name: of the 255 that file systems allow, digest and temporary suffix need some.
LONGEST_NAME = 100

Sources = Sequence[Source | None]


class PreparedFiles:
    """Prepared arrays, one file for each, by the name of what they were prepared from.

    Args:
        folder: where they are stored.
        settings: how they are prepared. Names of stored files depend on it, and on path, size and modification time of
            the files that they are prepared from.
        fields: names of the arrays of each.
        what: what one is called in messages, and several.

    Raises:
        UserError: the folder cannot be made.
    """

    def __init__(
        self, folder: str | Path, *, settings: Sequence[object], fields: Sequence[str], what: tuple[str, str]
    ) -> None:  # fmt: skip
        self.folder, self.settings, self.fields, self.what = Path(folder), list(settings), fields, what
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--cache: cannot make {self.folder}: {error.strerror or error}") from error

    def stem(self, name: str, sources: Sources) -> str:
        """Return how the names of the arrays' files begin.

        Raises:
            UserError: a file that it is prepared from is missing.
        """
        facts = list(self.settings)
        for source in sources:
            try:
                if isinstance(source, Path):
                    source.stat()
                files = [(str(file.resolve()), file.stat()) for file in source_files(source)] if source else []
            except OSError:
                raise UserError(f"expected a file of {name}, there is none at {source}") from None
            facts += [(path, status.st_size, status.st_mtime_ns) for path, status in files]
        digest = fingerprint_of(repr(facts), size=12)
        return f"{_short(name)}_{digest}"

    def note_outdated(self, all_sources: Mapping[str, Sources]) -> None:
        """Report on stderr what was prepared from other files, with other settings or by another version."""
        ending = f"_{self.fields[-1]}.npy"
        prepared = {name.removesuffix(ending) for name in os.listdir(self.folder) if name.endswith(ending)}
        before = {name.rpartition("_")[0] for name in prepared}
        outdated = [
            name for name, sources in all_sources.items()
            if _short(name) in before and not self._has(name, sources, prepared)
        ]  # fmt: skip
        if outdated:
            note(
                f"--cache: {len(outdated)} of {len(all_sources)} {self.what[1]} in {self.folder} were prepared from "
                "other files, with other settings or by another version, and are prepared again "
                f"({first_names(outdated)})"
            )

    def _has(self, name: str, sources: Sources, prepared: set[str]) -> bool:
        try:
            return self.stem(name, sources) in prepared
        except UserError:  # reported when it is read
            return True

    def get(self, name: str, sources: Sources, prepare: Callable[[], Sequence[np.ndarray]]) -> list[np.ndarray]:
        """Return the arrays, mapped into memory; they are prepared and stored first if they are not there.

        Raises:
            UserError: an array cannot be written, or is damaged.
        """
        stem = self.stem(name, sources)
        files = [self.folder / f"{stem}_{field}.npy" for field in self.fields]
        if not all(file.exists() for file in files):
            arrays = prepare()
            for path, array in zip(files, arrays, strict=True):
                with whole_file(path) as file:
                    np.save(file, array)
        return [
            read_array(file, what=f"a prepared {self.what[0]} of --cache (remove it)", mapped=True) for file in files
        ]


def _short(name: str) -> str:
    """Return the beginning of the file names of what has a name."""
    return os.fsencode(name.replace("/", "_"))[:LONGEST_NAME].decode("utf-8", "ignore")
