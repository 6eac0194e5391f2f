"""The parser of lists against a slow plain reading, on valid text and on any bytes; cutting and keeping of lists."""

import hashlib
import posixpath
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import data.catalog.lists
from data.catalog.lists import cut_list, fingerprint, list_path, read_names, seeded_order, write_list_once
from data.catalog.names import NameList
from utils.errors import UserError

BUDGET = settings(derandomize=True, max_examples=200, deadline=None)
# Bytes that a parser may trip over, more often than chance would draw them.
PIECES = [b"a", b"b.png", b" ", b"\t", b"\n", b"\r", b"\r\n", b".", b"..", b"/", b"\\", b"\0", b"\x0b", b"\x0c",
          b"\xef\xbb\xbf", b"\xc3", b"\xa9", b"\xff", "é".encode(), "\u2028".encode(), "\xa0".encode()]  # fmt: skip
any_bytes = st.lists(st.sampled_from(PIECES) | st.binary(min_size=1, max_size=3), max_size=25).map(b"".join)
portions = st.sampled_from([1, 2, 3, 5, 17, 1 << 24])

name_texts = st.text("ab0._-/é中\u2028\xa0", min_size=1, max_size=8).filter(
    lambda name: not name.startswith("/") and ".." not in name.split("/")
)
gaps = st.text(" \t", max_size=3)
lines = st.one_of(
    gaps,
    st.builds("".join, st.tuples(gaps, name_texts, gaps)),
    st.builds("".join, st.tuples(gaps, name_texts, st.sampled_from([" ", "\t"]), st.text("01 .\té", max_size=6))),
)
texts = st.builds(
    lambda mark, body, ends, closed: mark + "".join(line + end for line, end in zip(body, ends, strict=False)) + closed,
    st.sampled_from(["", "\ufeff"]),
    st.lists(lines, min_size=1, max_size=12),
    st.lists(st.sampled_from(["\n", "\r\n", "\r", "\n\n"]), min_size=12, max_size=12),
    st.sampled_from(["", "last.png", "last.png 1 0"]),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("lists") / "chest_train.txt"


def read(path, content, portion=1 << 24):
    path.write_bytes(content)
    with mock.patch.object(data.catalog.lists, "PORTION", portion):
        return read_names(path)


def read_or_refuse(path, content, portion):
    """Names, or None where the list is refused."""
    try:
        return list(read(path, content, portion))
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return None


def slow_reading(text):
    plain = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
    words = ([word for word in line.split(" ") if word] for line in plain.split("\n"))
    return list(dict.fromkeys(found[0] for found in words if found))


@BUDGET
@given(text=texts, portion=portions)
def test_valid_text_reads_as_in_plain_python(path, text, portion):
    expected = slow_reading(text)
    if expected:
        assert list(read(path, text.encode(), portion)) == expected
    else:
        with pytest.raises(UserError, match="expected names, one a line, found none"):
            read(path, text.encode(), portion)


@BUDGET
@given(content=any_bytes, portion=portions)
@example(content=b"\xc3\n\xa9\n", portion=1 << 24)
def test_any_bytes_give_names_or_one_line(path, content, portion):
    for name in read_or_refuse(path, content, portion) or []:
        assert name and not set(name) & set(" \t\n\r\0")
        name.encode("utf-8")
        inside = posixpath.normpath(name.replace("\\", "/"))
        assert not name.startswith("/") and inside.split("/")[0] != ".."


@BUDGET
@given(content=any_bytes, portion=portions)
@example(content=b"a\x0cb", portion=1 << 24)
def test_blank_lines_and_portions_change_nothing(path, content, portion):
    whole = read_or_refuse(path, content, 1 << 24)
    assert read_or_refuse(path, content, portion) == whole
    assert read_or_refuse(path, content + b"\n\n \n", portion) == whole


def test_a_published_line_gives_its_name(path):
    content = b"00014058_009.png 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n00000001_000.png 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
    assert list(read(path, content)) == ["00014058_009.png", "00000001_000.png"]


def test_a_mark_windows_line_ends_and_no_last_line_end(path):
    assert list(read(path, b"\xef\xbb\xbfa.png\tx\r\n\r\n  b.png 1\rc.png")) == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize("portion", [1, 64, 1000])
def test_lines_longer_than_a_portion_stay_whole(path, portion):
    names = ["a" * 300 + str(i) for i in range(3)]
    assert list(read(path, "".join(f"{name} {'0' * 200}\n" for name in names).encode(), portion)) == names


def test_repeated_names_are_dropped_and_counted(path, capsys):
    assert list(read(path, b"b\na 1\nb 0\nc\na\nb\n")) == ["b", "a", "c"]
    assert capsys.readouterr().err == f"{path}: 3 repeated names are dropped\n"
    assert list(read(path, b"b\na\n")) == ["b", "a"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.png", "a/../../x.png", "a\\..\\x.png", "..", "a\0.png"])
def test_names_that_lead_out_are_refused(path, name):
    with pytest.raises(UserError, match="expected names within the data set's folder") as caught:
        read(path, b"good.png\n" + name.encode() + b"\nlast.png\n")
    assert repr(name) in str(caught.value) and str(path) in str(caught.value)


def test_dots_that_lead_nowhere_are_names(path):
    assert list(read(path, b"a..b.png\n.\n.x\n./a\n...\n")) == ["a..b.png", ".", ".x", "./a", "..."]


@pytest.mark.parametrize("content", [b"caf\xe9.png\n", b"a\n\xff\xfeb\n", "a.png\n".encode("utf-16"), b"\xc3\n\xa9\n"])
def test_other_encodings_are_refused(path, content):
    with pytest.raises(UserError, match="expected UTF-8 text"):
        read(path, content)


@pytest.mark.parametrize("content", [b"", b"\n", b" \t\r\n\r", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_a_list_of_nothing_is_refused(path, content):
    with pytest.raises(UserError, match="expected names, one a line, found none"):
        read(path, content)


def test_a_list_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=f"cannot read the list {tmp_path}/x.txt: No such file"):
        read_names(tmp_path / "x.txt")
    with pytest.raises(UserError, match=f"cannot read the list {tmp_path}: Is a directory"):
        read_names(tmp_path)


@pytest.mark.parametrize(("ratio", "k"), [(1.0, 10), (0.8, 8), (0.39, 3), (0.05, 0)])
def test_the_first_of_the_list_pretrain_and_the_rest_is_left(ratio, k):
    names = [f"n{i}" for i in range(10)]
    first, rest = cut_list(NameList.of(names), ratio)
    assert list(first) == names[:k] and list(rest) == names[k:]


def test_the_fingerprint_is_of_names_their_order_and_their_bounds():
    ends = np.array([1, 3], dtype="<i8").tobytes()
    expected = hashlib.blake2b(b"abc" + ends, digest_size=8).hexdigest()
    assert fingerprint(NameList.of(["a", "bc"])) == expected
    others = [["ab", "c"], ["bc", "a"], ["a", "bd"], ["a", "bc", "d"], []]
    assert len({fingerprint(NameList.of(names)) for names in [["a", "bc"], *others]}) == 6


def test_a_seeded_order_depends_on_seed_and_names_alone():
    names = [f"n{i}" for i in range(50)]
    order = seeded_order(names, 1)
    assert sorted(order) == sorted(names) and order != names
    assert seeded_order(reversed(names), 1) == order != seeded_order(names, 2)
    assert seeded_order(names[:30], 1) == [name for name in order if name in names[:30]]


def test_a_kept_list_is_read_back(tmp_path, capsys):
    path = list_path(tmp_path / "new" / "lists", "chest", "train")
    assert path == tmp_path / "new" / "lists" / "chest_train.txt"
    write_list_once(path, (f"é{i}.png {i} 0" for i in range(3)), source="the images of x")
    assert path.read_bytes() == "é0.png 0 0\né1.png 1 0\né2.png 2 0\n".encode()
    assert capsys.readouterr().err == f"made {path} from the images of x: 3 names\n"
    assert list(read_names(path)) == ["é0.png", "é1.png", "é2.png"]


def test_a_list_that_cannot_be_kept_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=f"--lists: cannot make {tmp_path}/file"):
        write_list_once(tmp_path / "file" / "a.txt", ["x"], source="x")
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(UserError, match=f"cannot write {tmp_path}/a.txt"):
        write_list_once(tmp_path / "a.txt", ["x"], source="x")
