"""The program run in this process, as it is typed."""

import sys

import pytest

import main
from utils.errors import run_command


def run(monkeypatch, capsys, *options):
    """Run main.py on the CPU: (exit status, stderr)."""
    monkeypatch.setattr(sys, "argv", ["main.py", "--device", "cpu", *map(str, options)])
    with pytest.raises(SystemExit) as caught:
        run_command(main.main)
    return caught.value.code, capsys.readouterr().err
