"""A training step launches no more operations than its budget, copies nothing and waits for nothing."""

import subprocess
import sys

import pytest
import torch

from benchmarks.speed import launches
from benchmarks.speed.operations import META, MixedDevices, OperationCounter, on_meta
from benchmarks.speed.report import table
from benchmarks.speed.timing import ROOT
from engine.step_graph import GraphedSteps


def count(action):
    with OperationCounter(launches.PARTS, rest="rest") as counter:
        action()
    return counter


@pytest.mark.parametrize("phase", launches.STEPS)
@pytest.mark.parametrize("d", [2, 3])
def test_a_step_keeps_its_budget_and_the_host_never_waits(d, phase, tmp_path):
    counter = launches.count_step(d, phase, tmp_path)
    assert not counter.copies and not counter.waits
    parts = launches.by_part(counter)
    assert set(parts) == {"views", "passes", "loss", "backward", "guard", "meters", "optimizer", "loop"}
    assert parts["views"] <= launches.MAX_VIEWS[d] and parts["guard"] + parts["meters"] <= launches.MAX_CHECKS
    assert parts["backward"] + parts["passes"] + parts["loss"] <= {2: 1700, 3: 1100}[d]
    results = launches.results_of(d, phase, counter)
    assert all(result.met is not False for result in results) and sum(r.met is not None for r in results) >= 3
    lines = [r for r in results if ".py:" in r.what]
    assert len(lines) >= launches.TOP - 1 and lines[0].ours == max(r.ours for r in lines)
    assert "≤ 0 copies" in table(results) and f"{parts.total():,} operations" in table(results)


@pytest.mark.parametrize("d", [2, 3])
def test_views_of_any_number_of_samples_are_as_many_operations(d, tmp_path):
    with on_meta():
        counts = []
        for batch in (2, 2, 11):
            trainer, raw = launches.pretraining(d, batch, tmp_path)
            counts.append(launches.by_part(count(lambda: trainer.task.views(raw, 0, 0))))  # noqa: B023
    assert counts[1] == counts[2] and set(counts[1]) == {"views"}


class Rehearsal:
    """Runs steps as they would be recorded."""

    def rehearse(self, work):
        with OperationCounter(launches.PARTS, rest="rest") as self.counter:
            return work()


@pytest.mark.parametrize("d", [2, 3])
def test_a_step_to_be_recorded_as_a_graph_copies_nothing_and_waits_for_nothing(d, tmp_path):
    with on_meta():
        trainer, raw = launches.pretraining(d, 2, tmp_path)
        rehearsal = Rehearsal()
        trainer.graphed_steps = GraphedSteps(trainer.task, trainer.optimizer, META, rehearsal)
        for step in range(2):
            outer = count(lambda: trainer.train_step(raw, 0, step))  # noqa: B023
    parts = launches.by_part(rehearsal.counter)
    assert not rehearsal.counter.copies and not rehearsal.counter.waits and not outer.copies and not outer.waits
    assert set(parts) == {"views", "passes", "loss", "backward", "guard", "meters", "optimizer", "rest"}
    assert sum(launches.by_part(outer).values()) < parts.total() + 40, "all but the inputs is recorded"


X = torch.empty(3, 4, device=META)


@pytest.mark.parametrize(("action", "launched", "copies", "waits"), [
    (lambda: X + X * 2.0, 2, 0, 0),
    (lambda: X.view(4, 3).T[1:].unbind(), 0, 0, 0),
    (lambda: torch.empty_like(X), 0, 0, 0),
    (lambda: torch.zeros(3), 0, 0, 0),
    (lambda: X + torch.tensor(2.0), 1, 0, 0),
    (lambda: torch.zeros(3).to(META), 1, 1, 0),
    (lambda: torch.tensor([1, 2], device=META), 0, 1, 0),
    (lambda: X.new_tensor([1, 2]), 0, 1, 0),
    (lambda: X.copy_(torch.zeros(4)), 1, 1, 0),
    (lambda: X.cpu(), 1, 1, 1),
    (lambda: X.tolist(), 1, 1, 1),
    (lambda: X.sum().item(), 2, 0, 1),
    (lambda: X.nonzero(), 1, 0, 1),
    (lambda: X.nanmedian(), 1, 0, 1),
    (lambda: X.nanmedian(dim=0), 1, 0, 0),
])  # fmt: skip
def test_operations_copies_and_waits_are_counted(action, launched, copies, waits):
    counter = count(action)
    assert (counter.launched.total(), counter.copies.total(), counter.waits.total()) == (launched, copies, waits)


def test_operands_on_two_devices_are_an_error():
    with pytest.raises(MixedDevices, match=r"aten.index_select"):
        count(lambda: X.index_select(0, torch.tensor([1, 2])))


def test_gradients_are_counted_at_the_line_of_their_operation():
    leaf = torch.empty(3, 4, device=META, requires_grad=True)
    counter = count(lambda: launches.known_cross_entropy(leaf, X).backward())
    lines = {where.line for where in counter.launched if where.part == "backward"}
    assert {line.partition(":")[0] for line in lines} <= {"losses/classification.py", "gradients"}
    assert any(line.startswith("losses/") for line in lines)


NOT_NEEDED = """
import sys
sys.modules |= dict.fromkeys(["SimpleITK", "scipy", "torchio", "skimage", "matplotlib", "sklearn"])
from pathlib import Path
from benchmarks.speed.__main__ import main
main(["--only", "gpu", "launches", "--quick", "--out", sys.argv[1]])
import torch
from benchmarks.speed import gpu
from benchmarks.speed.results import BenchmarkSettings
gpu.measure_loop(2, torch.device("cpu"), BenchmarkSettings(Path(sys.argv[1]), 1, quick=True))
"""


def test_gpus_are_measured_where_there_is_little_but_torch(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", NOT_NEEDED, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "2D pre-training, views" in ran.stdout and "no GPU" in ran.stdout
