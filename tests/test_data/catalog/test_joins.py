"""Reports of joins, and tables that contradict themselves."""

import pytest

from data.catalog.joins import Side, first_names, note_join, unique
from data.catalog.names import NameList
from utils.errors import UserError


def test_a_line_counts_both_sides_and_names_what_is_left_over(capsys):
    left = NameList.of(f"{i}.png" for i in range(8))
    note_join("list.txt", Side(4, "names", "in --data", "not", []), Side(12, "images", "in a list", "in no list", left))
    assert capsys.readouterr().err == (
        "list.txt: 4 of 4 names in --data; 4 of 12 images in a list, 8 in no list "
        "(0.png, 1.png, 2.png, 3.png, 4.png, ...)\n"
    )
    assert first_names(["a", "b"]) == "a, b" and first_names([]) == ""


def test_other_processes_than_the_main_one_print_nothing(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    note_join("list.txt", Side(1, "names", "in --data", "not", []))
    assert capsys.readouterr().err == ""


def test_a_repeated_row_is_counted_and_a_contradiction_refused(capsys):
    rows = [("a", 1), ("b", 2), ("a", 1), ("a", 1)]
    assert unique(rows, source="t.csv", what="labels") == {"a": 1, "b": 2}
    assert capsys.readouterr().err == "t.csv: 2 repeated names are dropped\n"
    assert unique(rows, source="t.csv", what="labels", counted=False) == {"a": 1, "b": 2}
    assert capsys.readouterr().err == ""
    pairs = [(str(i), value) for value in (0, 1) for i in range(7)]
    with pytest.raises(
        UserError, match=r"t.csv: 7 names are listed twice with different labels \(0, 1, 2, 3, 4, ...\)"
    ):
        unique([*rows, *pairs], source="t.csv", what="labels")
