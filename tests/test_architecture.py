"""The house rules that a machine can check: imports point one way, options live, functions fit a screen."""

import ast
from pathlib import Path

import pytest

from utils.options import option_names

ROOT = Path(__file__).parent.parent
ROOMS = ("utils", "models", "losses", "data", "engine")
ALLOWED = {
    "utils": {"utils"},
    "models": {"models", "utils"},
    "losses": {"losses", "utils"},
    "data": {"data", "utils"},
    "engine": {"engine", "models", "losses", "utils"},
}
LONGEST_FUNCTION = 60
# Where options are read.
STORIES = (ROOT / "main.py", ROOT / "downstream.py")


def sources(*rooms):
    return [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
        else:
            continue
        yield from (name.split(".")[0] for name in names)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room):
    others = {*ROOMS, "main", "downstream", "luna_preprocess", "tests", "benchmarks"} - ALLOWED[room]
    for path in sources(room):
        wrong = set(imported_rooms(path)) & others
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_every_option_is_read_somewhere():
    text = "\n".join(p.read_text() for p in [*STORIES, *sources("engine")])
    dead = [name for name in option_names() if f"options.{name}" not in text]
    # The model's name goes into the file names of weights, by way of the stored options.
    assert set(dead) <= {"model", "phase"}, dead


def test_functions_fit_a_screen():
    paths = [*STORIES, ROOT / "luna_preprocess.py", *sources(*ROOMS, "benchmarks")]
    for path in (p for p in paths if p.exists()):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno
                assert length <= LONGEST_FUNCTION, f"{path.relative_to(ROOT)}: {node.name} has {length} lines"
