"""Lines that are printed, or kept."""

import pytest

from utils.notes import kept_notes, note


def test_lines_are_kept_by_the_innermost_block_and_printed_outside(capsys):
    with kept_notes() as outer:
        with kept_notes() as inner:
            pass
        note("one")
        with pytest.raises(ValueError), kept_notes() as failed:
            note("two")
            raise ValueError
    note("three")
    assert (outer, inner, failed) == (["one"], [], ["two"])
    assert capsys.readouterr().err == "three\n"
