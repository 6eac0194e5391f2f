"""What this interpreter lacks of a requirements file; run by env.sh in any Python, so no package is imported.

    python utils/installed.py lacks requirements.txt       what is missing, a line each, but for "# optional" lines
    python utils/installed.py required requirements.txt    the other lines, those of the files that it names with -r too
    python utils/installed.py optional requirements.txt    the optional lines
    python utils/installed.py forget requirements.txt      unregister what is half installed

In the project's own .venv every file is looked for, since an installation that was stopped leaves packages that are
registered and not there; other environments are believed.
"""

import csv
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

OWN_ENVIRONMENT = Path(__file__).resolve().parent.parent / ".venv"


def lines_of(path: Path, *, optional: bool) -> Iterator[str]:
    """The requirements of a file and of those that it names with ``-r``, either the optional or the other ones."""
    for line in path.read_text("utf-8").splitlines():
        requirement, _, comment = (part.strip() for part in line.partition("#"))
        if requirement.startswith("-r"):
            yield from lines_of(path.parent / requirement[2:].strip(), optional=optional)
        elif requirement and (comment == "optional") == optional:
            yield requirement


def parse(line: str) -> Any:
    """A requirement, by the package that pip brings along or by the one that most environments have.

    Raises:
        ImportError: there is neither, as in an empty environment that uv has made.
    """
    try:
        from packaging.requirements import Requirement
    except ImportError:
        from pip._vendor.packaging.requirements import Requirement  # type: ignore[assignment]
    return Requirement(line)


def is_asked(requirement: Any, extras: set[str]) -> bool:
    """Whether a requirement is for this machine and for one of the extras."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)


def registered(name: str) -> Distribution | None:
    """A package by its registration; one whose registration is cut short counts as not there."""
    try:
        package = distribution(name)
        return package if package.read_text("METADATA") or package.read_text("PKG-INFO") else None
    except PackageNotFoundError:
        return None


def lacks(path: Path) -> Iterator[str]:
    """The lines that nothing installed satisfies."""
    for line in lines_of(path, optional=False):
        try:
            requirement = parse(line)
        except ImportError:
            yield line
            continue
        package = registered(requirement.name) if is_asked(requirement, {""}) else None
        if is_asked(requirement, {""}) and (
            package is None or not requirement.specifier.contains(package.version, prereleases=True)
        ):
            yield line


def needed(path: Path) -> dict[str, Distribution | None]:
    """All that a file's requirements and their own need, by name; None for what is not registered."""
    found: dict[str, Distribution | None] = {}
    queue = [(parse(line), {""}) for line in lines_of(path, optional=False)]
    while queue:
        requirement, extras = queue.pop()
        if requirement.name in found or not is_asked(requirement, extras):
            continue
        package = found[requirement.name] = registered(requirement.name)
        asked = {"", *requirement.extras}
        queue += [(parse(line), asked) for line in (package and package.requires) or []]
    return found


def is_whole(package: Distribution) -> bool:
    """Whether all of a package's files are there; the list of them is the last that pip writes."""
    record = package.read_text("RECORD")
    files = [row[0] for row in csv.reader((record or "").splitlines()) if row]
    # Compiled files may be cleared away at any time.
    return bool(files) and all(
        Path(str(package.locate_file(file))).exists() for file in files if not file.endswith(".pyc")
    )


def normalized(name: str) -> str:
    """A package's name as all its spellings have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def half_installed(path: Path) -> list[str]:
    """Names of packages of the project's own environment that are missing or have lost files."""
    if Path(sys.prefix).resolve() != OWN_ENVIRONMENT.resolve():
        return []
    return [name for name, package in needed(path).items() if package is None or not is_whole(package)]


def forget(path: Path) -> None:
    """Take away the registration of packages that are half installed; what installs next writes over their files."""
    names = {normalized(name) for name in half_installed(path)}
    for folder in Path(sys.prefix).glob("lib/python*/site-packages/*.dist-info"):
        if normalized(folder.name.split("-")[0]) in names:
            shutil.rmtree(folder)


def main() -> int:
    """Do what is asked; status 1 when something is missing."""
    command, path = sys.argv[1], Path(sys.argv[2])
    if command == "forget":
        forget(path)
        return 0
    if command in ("required", "optional"):
        print("\n".join(lines_of(path, optional=command == "optional")))
        return 0
    missing = list(lacks(path)) or half_installed(path)
    print(*missing, sep="\n", end="\n" if missing else "")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
