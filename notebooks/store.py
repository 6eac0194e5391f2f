"""Run notebooks and store them with their outputs: ``python -m notebooks.store [FILE.ipynb ...]``, else all of them.

Beside the outputs the hash of the code that gave them is stored; a test compares it with the code.
"""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.arguments import OneLineParser
from utils.errors import run_command
from utils.optional import import_optional

PROGRAM = "python -m notebooks.store"

NOTEBOOKS = sorted(Path(__file__).parent.glob("*.ipynb"))
MARK = "code_that_gave_the_outputs"
TIMEOUT = 1800  # seconds a cell, since the first one may have to make weights


def code_hash(notebook: Any) -> str:
    """Return the SHA-256 of all code cells."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def execute(path: Path) -> Any:
    """Run a notebook in its own folder; return it with its outputs, and without times and names of this machine.

    Raises:
        UserError: nbclient or nbformat is not installed.
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    nbformat, nbclient = (import_optional(name, "notebooks") for name in ("nbformat", "nbclient"))
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(path.parent)}}
    client = nbclient.NotebookClient(
        notebook, timeout=TIMEOUT, kernel_name="python3", resources=place, record_timing=False, coalesce_streams=True
    )
    client.execute()
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            MARK: code_hash(notebook),
        }
    )
    return notebook


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and store the notebooks."""
    parser = OneLineParser(prog=PROGRAM, description="Run notebooks, store them with outputs.")
    parser.add_argument("notebooks", nargs="*", type=Path, default=NOTEBOOKS, metavar="FILE.ipynb", help="else all")
    nbformat = import_optional("nbformat", "notebooks")
    for path in parser.parse_args(arguments).notebooks:
        print(f"running {path.name}", file=sys.stderr)
        nbformat.write(execute(path), path)
    return 0


if __name__ == "__main__":
    run_command(main, PROGRAM)
