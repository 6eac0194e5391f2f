"""curves.png: its content, when it is written, and that a run does not need matplotlib."""

import json
import sys

import pytest
from PIL import Image

from engine.curves import CurvePictures, draw_curves, series_of, write_curves
from engine.recorder import METRICS, Recorder
from tests.toys import make_trainer

LINES = [
    {"epoch": 3, "total": 1.5, "projection_spread": 0.9, "beta": 1.0, "learning_rate": 0.1, "skipped_steps": 0},
    {"epoch": 4, "total": float("nan"), "projection_spread": 0.8, "beta": 0.9, "learning_rate": 0.05},
    {"epoch": 5, "total": 0.5, "projection_spread": 0.7, "beta": 0.8, "learning_rate": 0.0, "note": "text"},
]


def test_every_number_is_a_series_and_gaps_are_left_out():
    assert series_of(LINES) == {
        "total": ([3, 5], [1.5, 0.5]),
        "projection_spread": ([3, 4, 5], [0.9, 0.8, 0.7]),
        "learning_rate": ([3, 4, 5], [0.1, 0.05, 0.0]),
    }


def test_each_number_has_its_own_plot():
    pytest.importorskip("matplotlib")
    panels = [panel for panel in draw_curves(LINES).axes if panel.get_visible()]
    assert [panel.get_title() for panel in panels] == ["total", "spread of projections", "learning rate"]
    assert list(panels[1].lines[0].get_xdata()) == [3, 4, 5]
    assert list(panels[1].lines[0].get_ydata()) == [0.9, 0.8, 0.7]


def test_the_picture_has_ink_where_the_plots_are(tmp_path):
    pytest.importorskip("matplotlib")
    write_curves(LINES, tmp_path / "c.png")
    image = Image.open(tmp_path / "c.png").convert("L")
    width, height = image.size
    assert (width, height) == (1200, 220)
    assert image.crop((0, 0, width // 4, height)).getextrema()[0] < 128
    assert image.crop((width * 7 // 8, 0, width, height)).getextrema() == (255, 255)  # the fourth stays empty
    assert [path.name for path in tmp_path.iterdir()] == ["c.png"]
    write_curves([], tmp_path / "none.png")


def test_written_every_few_epochs_and_at_the_last(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in LINES) + '{"epo')
    curves = CurvePictures(Recorder(tmp_path, about={}), every=2, epochs=5)
    written = []
    for epoch in range(6):
        (tmp_path / "curves.png").unlink(missing_ok=True)
        curves(epoch, None)
        if (tmp_path / "curves.png").exists():
            written.append(epoch)
    assert written == [0, 2, 4, 5]
    other = CurvePictures(Recorder(tmp_path / "other", about={}, active=False), every=1, epochs=5)
    other(5, None)
    assert not (tmp_path / "other").exists()


def with_curves(folder):
    trainer = make_trainer(folder)
    trainer.after_epoch = [CurvePictures(trainer.recorder, every=1, epochs=2)]
    return trainer


def test_a_run_leaves_curves_without_global_state(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    with_curves(tmp_path).fit()
    assert Image.open(tmp_path / "curves.png").size[0] == 1200
    assert "matplotlib.pyplot" not in sys.modules


def test_without_matplotlib_the_run_continues_and_prints_one_line(tmp_path, monkeypatch, capsys):
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with_curves(tmp_path).fit()
    assert capsys.readouterr().err.count("curves.png is left out: matplotlib is not installed") == 1
    assert not (tmp_path / "curves.png").exists()
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "finished"
