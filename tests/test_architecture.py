"""The house rules that a machine can check: imports point one way, options live, functions fit a screen."""

import ast
from pathlib import Path

import pytest

from utils.options import option_names

ROOT = Path(__file__).parent.parent
ROOMS = ("utils", "models", "losses", "data", "engine", "evaluation", "downstream", "checks")
ALLOWED = {
    "utils": {"utils"},
    "models": {"models", "utils"},
    "losses": {"losses", "utils"},
    "data": {"data", "utils"},
    "engine": {"engine", "models", "losses", "utils"},
    "evaluation": {"evaluation", "models", "losses", "utils"},
    "downstream": {"downstream", "evaluation", "engine", "data", "models", "losses", "utils"},
    "checks": {"checks", "downstream", "evaluation", "engine", "data", "models", "losses", "utils"},
}
# Within data/: what each wing may import beside itself and utils. Files directly in data/ may import all wings.
WINGS = {
    "readers": set(),
    "catalog": {"readers"},
    "transforms": set(),
    "datasets": {"catalog", "readers", "transforms"},
    "phantoms": set(),
}
LONGEST_FUNCTION = 60
# Where options are read.
STORIES = (ROOT / "main.py",)


def sources(*rooms):
    return [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]


def imported(path):
    """The modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
        else:
            continue
        yield from names


def imported_rooms(path):
    return (name.split(".")[0] for name in imported(path))


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room):
    others = {*ROOMS, "main", "luna_preprocess", "tests", "benchmarks"} - ALLOWED[room]
    for path in sources(room):
        wrong = set(imported_rooms(path)) & others
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("wing", WINGS)
def test_imports_within_data_point_one_way(wing):
    for path in sources(f"data/{wing}"):
        rooms = {
            name.split(".")[1] if "." in name else "data" for name in imported(path) if name.split(".")[0] == "data"
        }
        wrong = rooms - WINGS[wing] - {wing}
        assert not wrong, f"{path.relative_to(ROOT)} imports data.{sorted(wrong)}"


def test_the_wings_of_data_are_known():
    assert {path.name for path in (ROOT / "data").iterdir() if (path / "__init__.py").exists()} == set(WINGS)


def test_every_option_is_read_somewhere():
    text = "\n".join(p.read_text() for p in [*STORIES, *sources("engine", "downstream")])
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
