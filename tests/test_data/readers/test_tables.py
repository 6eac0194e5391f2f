"""CSV tables: what is read, and rows whose values would end up in columns that are not theirs."""

import pytest

from data.readers.tables import read_table
from utils.errors import UserError


def table(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_rows_by_name_with_others_and_blanks(tmp_path):
    content = '\ufeffname,patient,note\na.png,p1,"x, y"\n\n"b",p2,\n'
    assert read_table(table(tmp_path, content), ("name", "patient")) == [
        {"name": "a.png", "patient": "p1", "note": "x, y"},
        {"name": "b", "patient": "p2", "note": ""},
    ]


def test_lines_that_end_in_a_comma_as_nihs(tmp_path):
    assert read_table(table(tmp_path, "a,b,\n1,2,\n"), ("a",)) == [{"a": "1", "b": "2"}]
    assert read_table(table(tmp_path, "a,b,\n1,2\n"), ("a",)) == [{"a": "1", "b": "2"}]
    assert read_table(table(tmp_path, "a,b\n1,2,,\n"), ("a",)) == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize("content, message", [
    ("", "expected the columns a,b, got none"),
    ("a,c\n1,2\n", "expected the columns a,b, got a,c"),
    ("a,b,a\n1,2,3\n", "expected one column named a, got 2"),
    ("a,b\n1,2\n3\n", "row 2 is cut short"),
    ("a,b,c\n1,2\n", "row 1 is cut short"),
    ("a,b\n1,2,3\n", "row 1 has more; is a comma unquoted"),
    ("a,b,\n1,2,3\n", "row 1 has more"),
    ("a,b\n1,\n", "expected a,b in every row, row 1 lacks one"),
    (b"a,b\n\xff,2\n", "expected a table in UTF-8"),
])  # fmt: skip
def test_wrong_tables_are_one_line(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read_table(table(tmp_path, content), ("a", "b"))
    assert "\n" not in str(caught.value) and "t.csv" in str(caught.value)


def test_no_table(tmp_path):
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(UserError, match="expected a table in UTF-8"):
            read_table(path, ("a",))
