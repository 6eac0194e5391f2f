"""A short run of tests/torture.py: kills, resumes, nothing lost."""

from tests.torture import PREPROCESSING, torture


def test_killed_runs_go_on_and_nothing_is_lost(tmp_path):
    report = torture(tmp_path, kills=6, most=2)
    told = report.table()
    assert not report.lost and not report.half_written and not report.left_over, told
    assert sum(report.kills.values()) >= 6 and report.kills[PREPROCESSING] >= 2, told
    assert report.resumes >= 6 and report.runs >= 2, told
