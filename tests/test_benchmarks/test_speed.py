"""The benchmarks run and tell what they measured; what they measure is no matter of a test."""

import builtins
import json
import math

import pytest
import torch

from benchmarks.speed import __main__ as program
from benchmarks.speed import gpu, startup, step, timing, views3d
from benchmarks.speed.report import CHART_FILE, JSON_FILE, draw_chart, table
from benchmarks.speed.results import BenchmarkSettings, Measurement, Skipped
from utils.errors import UserError


def settings(folder, repeats=1):
    return BenchmarkSettings(folder, repeats, quick=True)


def without(monkeypatch, package):
    """As if a package were not installed."""
    real = builtins.__import__

    def importing(name, *args, **kwargs):
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)


@pytest.mark.parametrize("stage", ["preprocess", "images", "views2d", "views3d", "fresh", "loader"])
def test_stages_give_finite_figures_beside_their_yardsticks(stage, tmp_path):
    figures = program.STAGES[stage](settings(tmp_path))
    assert figures and all(isinstance(f, Measurement) and f.stage == stage for f in figures)
    assert all(math.isfinite(f.ours) and f.ours > 0 for f in figures)
    assert all(f.theirs > 0 and f.faster == f.theirs / f.ours for f in figures if f.yardstick)
    assert any(f.yardstick for f in figures)


@pytest.mark.parametrize("d", [2, 3])
def test_our_step_and_the_plain_one_train(d, tmp_path):
    views = step.random_views(step.sizes_of(d, quick=True), 2, step.CPU)
    for run in (step.plain_step(d, views), step.our_step(d, views, settings(tmp_path), amp=False)):
        run()
        run()


def test_loop_on_files_beside_synthetic_batches(tmp_path):
    figures = gpu.measure_loop(3, torch.device("cpu"), settings(tmp_path))
    assert all(math.isfinite(f.ours) and f.ours >= 0 for f in figures)
    assert {f.unit for f in figures} >= {"ms", ""} and sum("3D" in f.what for f in figures) == len(figures)


def test_without_a_gpu_its_figures_are_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (skipped,) = gpu.measure(settings(tmp_path))
    assert isinstance(skipped, Skipped) and "no GPU" in table([skipped])


def test_a_missing_yardstick_is_said(tmp_path, monkeypatch):
    without(monkeypatch, "torchio")
    (skipped,) = views3d.measure(settings(tmp_path))
    assert isinstance(skipped, Skipped) and "TorchIO" in table([skipped]) and "requirements-dev.txt" in skipped.why


def test_start_reads_the_whole_list_and_workers_are_watched(tmp_path):
    startup.write_list(tmp_path / "list.txt", 300)
    lines = (tmp_path / "list.txt").read_text().splitlines()
    assert len(lines) == 300 and len(set(lines)) == 300 and len(lines[0].split()) == 15
    assert set(startup.start(tmp_path / "list.txt")) == {"import", "list", "gb"}
    held = startup.worker_memory(settings(tmp_path))
    assert held.own > 1 and abs(held.growth) < held.own


FASTER = Measurement("a", "one thing", "ms", 2.0, "another", 8.0, at_least=3)
SLOWER = Measurement("a", "two things", "s", 5.0, "another", 2.0, at_most=1.5)
LARGE = Measurement("b", "memory", "GB", 3.0, at_most=2)
PLAIN = Measurement("b", "time", "s", 0.5)


def test_targets_are_ratios_or_amounts():
    assert FASTER.faster == 4 and FASTER.met and not FASTER._replace(at_least=4.1).met
    assert SLOWER.met is False and SLOWER._replace(at_most=2.5).met
    assert LARGE.met is False and LARGE._replace(at_most=3).met
    assert PLAIN.met is None and PLAIN.faster is None


def test_table_is_made_from_the_figures():
    head, rule, *rows = table([FASTER, SLOWER, LARGE, PLAIN, Skipped("c", "it", "no such thing")]).splitlines()
    assert {line.count("|") for line in (head, rule, *rows[:4])} == {9}
    for row, words in zip(
        rows,
        (["one thing", "2 ms", "8 ms", "4.00 times as fast", "≥ 3", " met"], ["2.50 of it", "≤ 1.5", "missed"],
         ["3 GB", "≤ 2 GB", "missed"], ["0.5 s"], ["c: it: not measured, no such thing"]),
        strict=True,
    ):  # fmt: skip
        assert all(word in row for word in words), row


def test_chart_is_drawn_or_left_out_without_matplotlib(tmp_path, monkeypatch):
    assert draw_chart(tmp_path / "a.png", [FASTER, SLOWER, LARGE, PLAIN])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    without(monkeypatch, "matplotlib")
    assert not draw_chart(tmp_path / "b.png", [FASTER]) and not (tmp_path / "b.png").exists()


def test_command_prints_the_table_and_writes_json_and_chart(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(program.STAGES, "images", lambda settings: [FASTER, LARGE])
    monkeypatch.setitem(program.STAGES, "gpu", lambda settings: [Skipped("gpu", "it", "why")])
    assert program.main(["--only", "images", "gpu", "--quick", "--out", str(tmp_path)]) == 0
    written = json.loads((tmp_path / JSON_FILE).read_text())
    assert [f["ours"] for f in written["figures"]] == [2.0, 3.0] and written["figures"][0]["faster"] == 4
    assert written["skipped"][0]["why"] == "why" and written["quick"] and written["machine"]["cores"] > 0
    assert (tmp_path / CHART_FILE).stat().st_size > 1000
    assert capsys.readouterr().out.strip() == table([FASTER, LARGE, Skipped("gpu", "it", "why")])


def test_wrong_options_are_one_line(tmp_path, capsys):
    for wrong in (["--only", "nothing"], ["--repeats", "0"]):
        with pytest.raises(SystemExit) as ended:
            program.main([*wrong, "--out", str(tmp_path)])
        assert ended.value.code == 2 and wrong[0] in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out: cannot make"):
        program.main(["--out", str(tmp_path / "file" / "folder")])


def test_medians_take_turns():
    calls, numbers = [], iter([100, 100, 1, 10, 3, 30, 2, 20])

    def note(name):
        calls.append(name)
        return next(numbers)

    assert timing.medians(lambda: note("a"), lambda: note("b"), repeats=3) == [2, 20]
    assert calls == ["a", "b"] * 4


def test_programs_are_measured_and_their_failures_told():
    # Its memory is looked at every 20 ms, so that it has to be there for some.
    hold = "import time; x = bytearray(200_000_000); x[::4096] = b'1' * len(x[::4096]); time.sleep(0.3); print('done')"
    run = timing.run_program(["-c", hold])
    assert run.output == "done\n" and run.seconds > 0 and 0.2 < run.peak_gb < 0.6
    with pytest.raises(UserError, match=r"status 3: .*last words"):
        timing.run_program(["-c", "import sys; print('first'); print('last words', file=sys.stderr); sys.exit(3)"])
