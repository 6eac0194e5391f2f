"""The programs run in this process, as they are typed."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import main
from utils.errors import run_command


def run(monkeypatch, capsys, *options):
    """Run main.py on the CPU: (exit status, stderr)."""
    monkeypatch.setattr(sys, "argv", ["main.py", "--device", "cpu", *map(str, options)])
    with pytest.raises(SystemExit) as caught:
        run_command(main.main)
    return caught.value.code, capsys.readouterr().err


def replay(
    monkeypatch, capsys, folder: str | Path, arguments: Sequence[str], *, small: Mapping[str, Sequence[str]]
) -> tuple[str, str]:
    """Run what an interpreter was asked to run, with options behind that make it small.

    Args:
        folder: where it was typed.
        arguments: of the interpreter: ``FILE.py ...`` or ``-m MODULE ...``.
        small: options by the program's name.

    Returns:
        The program's name and what it printed; anything but success fails the test.
    """
    module, *options = arguments[1:] if arguments[0] == "-m" else [Path(arguments[0]).stem, *arguments[1:]]
    found = importlib.import_module(module)
    if hasattr(found, "__path__"):
        found = importlib.import_module(f"{module}.__main__")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [arguments[0], *options, *small.get(module, ())])
    with pytest.raises(SystemExit) as caught:
        run_command(found.main)
    printed = capsys.readouterr()
    assert not caught.value.code, f"{' '.join(arguments)}: status {caught.value.code}\n{printed.err}"
    return module, printed.out + printed.err
