"""Programs end in one line where the machine refuses something, and in a traceback where they are wrong."""

import errno
import os
import runpy
import sys

import pytest
import torch

from utils.errors import UsageError, UserError, run_command


def end(monkeypatch, capsys, error):
    """(exit status, stderr) of a program whose main raises ``error``."""

    def main():
        raise error

    monkeypatch.setattr(sys, "argv", ["/somewhere/main.py"])
    with pytest.raises(SystemExit) as caught:
        run_command(main)
    return caught.value.code, capsys.readouterr().err


REPLICA = """Caught OutOfMemoryError in replica 1 on device 1.
Original Traceback (most recent call last):
  File "x.py", line 1, in forward
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has 79 GiB.
"""


@pytest.mark.parametrize(("error", "status", "said"), [
    (UserError("a file is missing"), 1, "a file is missing"),
    (UsageError("--b: expected 4"), 2, "--b: expected 4"),
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/y"), 1, "the system refused: No space left on device (/x/y)"),
    (OSError("no errno"), 1, "the system refused: no errno"),
    (MemoryError(), 1, "out of memory; give less to --b or --workers, or a larger machine"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), 1,
     "CUDA out of memory. Tried to allocate 2.00 GiB.; give less to --b or --workers, or a larger machine"),
    (torch.OutOfMemoryError(REPLICA), 1,
     "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has 79 GiB.; give less to --b or --workers, or a larger "
     "machine"),
])  # fmt: skip
def test_what_a_user_can_mend_is_one_line(monkeypatch, capsys, error, status, said):
    assert end(monkeypatch, capsys, error) == (status, f"main.py: error: {said}\n")


def test_memory_that_a_cpu_has_not_is_one_line(monkeypatch, capsys):
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    status, said = end(monkeypatch, capsys, caught.value)
    assert status == 1 and said.count("\n") == 1 and "allocate" in said and said.endswith("or a larger machine\n")


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("x"), ZeroDivisionError()])
def test_a_bug_keeps_its_traceback(monkeypatch, error):
    def main():
        raise error

    with pytest.raises(type(error)) as caught:
        run_command(main)
    assert caught.value is error


@pytest.mark.parametrize("words", [
    "benchmarks.evidence --data none --n luna --d 3 --out out",
    "data.phantoms --d 2 --out file/data --count 3",
    "models.export none.pt --dim 2 --to safetensors --out out.safetensors",
    "models.pretrained none.pt --dim 2",
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_a_module_s_error_begins_with_what_was_typed(words, tmp_path, monkeypatch, capsys):
    module, *arguments = words.split()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"/somewhere/{module}.py", *arguments])
    with pytest.raises(SystemExit):
        runpy.run_module(module, run_name="__main__")
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"python -m {module}: error: ")
