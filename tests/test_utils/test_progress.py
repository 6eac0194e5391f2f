"""How far long work has come, in a log file and on a terminal."""

import io
import sys

import pytest

from utils import progress as module
from utils.progress import duration, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """clock.seconds is what time it is."""

    class Clock:
        seconds = 1000.0

        def monotonic(self):
            return self.seconds

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def work(clock, items, *, seconds, **settings):
    done = []
    for item in progress(items, **{"name": "scans", "unit": "scan"} | settings):
        done.append(item)
        clock.seconds += seconds
    return done


def test_a_log_file_has_a_line_a_minute_with_what_is_left(clock, capsys):
    assert work(clock, range(40), seconds=7) == list(range(40))
    assert capsys.readouterr().err.splitlines() == [
        "scans: 2 of 40 scans, 0.143 scans/s, 04:26 left",
        "scans: 11 of 40 scans, 0.143 scans/s, 03:23 left",
        "scans: 20 of 40 scans, 0.143 scans/s, 02:20 left",
        "scans: 29 of 40 scans, 0.143 scans/s, 01:17 left",
        "scans: 38 of 40 scans, 0.143 scans/s, 00:14 left",
        "scans: 40 scans in 04:40",
    ]


def test_items_slower_than_a_minute_have_a_line_each_and_work_of_seconds_has_none(clock, capsys):
    work(clock, range(3), seconds=90)
    assert len(capsys.readouterr().err.splitlines()) == 3
    work(clock, range(9), seconds=1)
    work(clock, range(90), seconds=90, active=False)
    assert capsys.readouterr().err == ""


def test_units_of_an_unknown_number_of_batches(clock, capsys):
    assert work(clock, iter("abc"), seconds=30, unit="sample", units_each=4) == list("abc")
    assert capsys.readouterr().err.splitlines() == [
        "scans: 4 samples, 0.133 samples/s", "scans: 12 samples, 0.133 samples/s", "scans: 12 samples in 01:30"
    ]  # fmt: skip
    work(clock, "abc", seconds=30, unit="sample", units_each=4, total=10)
    assert "scans: 4 of 10 samples, 0.133 samples/s, 00:45 left" in capsys.readouterr().err


def test_bars_are_for_terminals_alone(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert work(clock, range(4), seconds=30, units_each=3, total=10) == list(range(4))
    assert "\r" in sys.stderr.getvalue() and "10/10" in sys.stderr.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [
    (0.4, "00:00"), (59.6, "01:00"), (725, "12:05"), (3600, "1:00:00"), (86399, "23:59:59"), (97925, "1 d 03:12:05"),
])  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text
