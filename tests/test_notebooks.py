"""The notebooks run from end to end on weights of tiny runs, and are stored with the outputs of their code."""

import json
import re
from itertools import count

import pytest

from notebooks import demo, store
from tests.programs import replay

PICTURES = {"classify_2d", "restorations_and_embeddings", "segment_3d"}
NAMES = PICTURES | {"use_in_other_networks"}
MOST_BYTES = 300_000
# Of one machine or one day: folders, addresses in memory, dates, times, warnings.
PRIVATE = re.compile(r"/(tmp|work|root|home|Users|usr|opt)\b|[A-Z]:\\|0x[0-9a-f]{6}|\d{4}-\d\d-\d\d|\d\d:\d\d|Warning")

TINY = ("--epochs", "0", "--workers", "0", "--device", "cpu")
SMALL = {
    "data.phantoms": {2: ("--count", "16", "--size", "72"), 3: ("--count", "2", "--size", "150")},
    "luna_preprocess": {
        3: ("--scale", "2", "--workers", "1", "--input_rows", "16", "--input_cols", "16", "--input_deps", "8")
    },
    "main": {2: (*TINY, "--b", "4", "--global_size", "64"), 3: (*TINY, "--b", "2", "--no-amp")},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder in which the weights were made as a notebook makes them, by the same commands with smaller options."""
    folder = tmp_path_factory.mktemp("runs")
    for dim in (2, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv(f"PCRLV2_WEIGHTS_{dim}D", raising=False)
            patch.setattr(demo, "RUNS", folder)
            patch.setattr(demo, "run", run_small(patch, dim))
            made = demo.weights(dim)
        assert made.parent == folder / f"notebooks{dim}d" and made.stem.endswith("_0")
    return folder


def run_small(patch, dim):
    def run(*arguments, log):
        log.parent.mkdir(exist_ok=True)
        replay(patch, demo.ROOT, arguments, lambda program: SMALL[program][dim])

    return run


def run_nothing(*arguments, log):
    raise AssertionError(f"nothing should run, {arguments} did")


def test_weights_that_are_there_are_taken(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "RUNS", runs)
    monkeypatch.setattr(demo, "run", run_nothing)
    monkeypatch.delenv("PCRLV2_WEIGHTS_3D", raising=False)
    assert demo.weights(3) == runs / "notebooks3d" / "pcrlv2_luna_pretask_1.0_0.pt"

    monkeypatch.setattr(demo, "RUNS", tmp_path)
    left = tmp_path / "demo3d"
    left.mkdir()
    for epoch in (0, 9, 12):
        (left / f"pcrlv2_luna_pretask_1.0_{epoch}.pt").touch()
    with pytest.raises(AssertionError, match="nothing should run"):
        demo.weights(3)  # the run has not finished
    (left / demo.CARD).touch()
    assert demo.weights(3).name == "pcrlv2_luna_pretask_1.0_12.pt"

    monkeypatch.setenv("PCRLV2_WEIGHTS_3D", str(runs / "notebooks3d" / "pcrlv2_luna_pretask_1.0_0.pt"))
    assert demo.weights(3).parent == runs / "notebooks3d"
    monkeypatch.setenv("PCRLV2_WEIGHTS_3D", str(tmp_path / "no.pt"))
    with pytest.raises(FileNotFoundError, match="PCRLV2_WEIGHTS_3D: expected a file of weights, there is none at"):
        demo.weights(3)


def test_a_program_that_fails_is_an_error_with_its_last_line(tmp_path):
    demo.run("-c", "print('well')", log=tmp_path / "new" / "log.txt")
    with pytest.raises(RuntimeError, match="ended with status 1: not well"):
        demo.run("-c", "raise SystemExit('not well')", log=tmp_path / "new" / "log.txt")
    assert (tmp_path / "new" / "log.txt").read_text() == "well\nnot well\n"


def test_there_are_notebooks():
    assert {path.stem for path in store.NOTEBOOKS} == NAMES


def texts(output):
    """What an output says in words; pictures are left out."""
    data = output.get("data", {})
    return [str(output.get("text", "")), *(str(value) for kind, value in data.items() if kind.startswith("text/"))]


@pytest.mark.parametrize("path", store.NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_with_the_outputs_of_its_code(path):
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    hint = f"python -m notebooks.store notebooks/{path.name}"
    assert notebook.metadata.get(store.MARK) == store.code_hash(notebook), f"the code has changed; {hint}"
    assert path.stat().st_size < MOST_BYTES
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in zip(count(1), code, strict=False):
        assert cell.execution_count == number and "execution" not in cell.metadata, hint
        assert len(cell.source.splitlines()) <= 40 and all(len(line) <= 120 for line in cell.source.splitlines())
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", hint
            for text in texts(output):
                assert not (found := PRIVATE.search(text)), f"{found.group()} in {text!r}"
    assert code[-1].outputs
    assert ("image/png" in json.dumps([cell.outputs for cell in code])) == (path.stem in PICTURES)


@pytest.mark.parametrize("path", store.NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, runs, monkeypatch):
    packages = ("ipykernel", "matplotlib", "sklearn", "nbformat", "nbclient", "monai", "dynamic_network_architectures")
    for package in packages:
        pytest.importorskip(package)
    for name, value in {"OMP_NUM_THREADS": "1", "PCRLV2_RUNS": str(runs), "PCRLV2_STEPS": "2"}.items():
        monkeypatch.setenv(name, value)
    for name in ("PCRLV2_WEIGHTS_2D", "PCRLV2_WEIGHTS_3D"):
        monkeypatch.delenv(name, raising=False)
    notebook = store.execute(path)
    kinds = {kind for cell in notebook.cells for output in cell.get("outputs", []) for kind in output.get("data", {})}
    assert ("image/png" in kinds) == (path.stem in PICTURES)
