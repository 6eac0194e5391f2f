"""The programs and scripts run in this process, as they are typed."""

import contextlib
import importlib
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import main
from engine.run_state import RunState
from utils.errors import run_command


def run(monkeypatch, capsys, *options):
    """Run main.py on the CPU: (exit status, stderr)."""
    monkeypatch.setattr(sys, "argv", ["main.py", "--device", "cpu", *map(str, options)])
    with pytest.raises(SystemExit) as caught:
        run_command(main.main)
    return caught.value.code, capsys.readouterr().err


def keep_state(monkeypatch, path: Path, *, at: tuple[int, int]) -> Path:
    """Copy the state that runs save at a position (epoch, step), as a run that is killed there leaves it, to a path."""
    save = RunState.save

    def save_and_keep(run_state, position, content):
        save(run_state, position, content)
        if position == at:
            path.write_bytes((run_state.folder / "last.pt").read_bytes())

    monkeypatch.setattr(RunState, "save", save_and_keep)
    return path


def replay(monkeypatch, folder: Path, arguments: Sequence[str], small: Callable[[str], Sequence[str]]) -> None:
    """Run what an interpreter was asked to run, with options behind that make it small; all but success fails the test.

    Args:
        folder: where it was typed.
        arguments: of the interpreter: ``FILE.py ...`` or ``-m MODULE ...``.
        small: the options behind, by the program's name.
    """
    module, *options = arguments[1:] if arguments[0] == "-m" else [Path(arguments[0]).stem, *arguments[1:]]
    program = importlib.import_module(module)
    if hasattr(program, "__path__"):
        program = importlib.import_module(f"{module}.__main__")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [arguments[0], *options, *small(module)])
    printed = io.StringIO()
    status: object = 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            if hasattr(program, "main"):
                run_command(program.main)
            runpy.run_module(module, run_name="__main__")
        except SystemExit as end:
            status = end.code
    assert not status, f"{' '.join(arguments)}: status {status}\n{printed.getvalue()}"


def write_command(path: Path, body: str) -> None:
    """A command in Bash, for a folder in PATH."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{body}\n")
    path.chmod(0o755)


def run_script(script: Path, arguments: Sequence[str], folder: Path) -> tuple[int, str, list[tuple[Path, list[str]]]]:
    """Run a script of the project with an interpreter that notes what the script starts, and starts nothing.

    Args:
        script: the file.
        arguments: as typed.
        folder: where it is typed.

    Returns:
        The exit status, what was printed, and for each start the folder and the interpreter's arguments.
    """
    log = folder / "started.jsonl"
    note = "import json, os, sys; print(json.dumps([os.getcwd(), sys.argv[1:]]))"
    # What env.sh asks an interpreter is answered for real.
    write_command(
        folder / "commands" / "python",
        f'case "$1" in -c | *installed.py) exec "{sys.executable}" "$@" ;; esac\n'
        f'exec "{sys.executable}" -c {note!r} "$@" >>"{log}"',
    )
    environment = {**os.environ, "PATH": f"{folder / 'commands'}:{os.environ['PATH']}"}
    environment.pop("PYTHON", None)
    done = subprocess.run(
        ["bash", script, *arguments], cwd=folder, env=environment, text=True, timeout=300,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    lines = log.read_text().splitlines() if log.exists() else []
    return done.returncode, done.stdout, [(Path(where), words) for where, words in map(json.loads, lines)]
