"""Arrays in ``.npy`` files: all of the file or nothing."""

import numpy as np
import pytest

from data.readers.arrays import read_array
from data.readers.volumes import read_volume
from utils.errors import UserError

ARRAY = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


@pytest.mark.parametrize("mapped", [False, True])
def test_arrays_of_another_length_than_their_header_says_are_refused(tmp_path, mapped):
    path = tmp_path / "a.npy"
    np.save(path, ARRAY)
    content = path.read_bytes()
    read = read_array(path, what="numbers", mapped=mapped)
    assert np.array_equal(read, ARRAY) and isinstance(read, np.memmap) == mapped
    for other in (content[:-1], content + b"\0", content[:60], b"", b"no array"):
        path.write_bytes(other)
        with pytest.raises(UserError, match=r"a\.npy: expected an array of numbers, it is damaged") as caught:
            read_array(path, what="numbers", mapped=mapped)
        assert "\n" not in str(caught.value)
    np.savez(tmp_path / "b.npz", ARRAY)
    (tmp_path / "b.npz").rename(path)
    with pytest.raises(UserError, match="an archive of arrays"):
        read_array(path, what="numbers", mapped=mapped)
    with pytest.raises(UserError, match="expected numbers, there is no file"):
        read_array(tmp_path / "none.npy", what="numbers", mapped=mapped)


@pytest.mark.parametrize("array, message", [
    (ARRAY[0], "3 dimensions"), (ARRAY[:0], "3 dimensions"), (ARRAY.astype(complex), "volume of numbers"),
    (np.where(ARRAY == 5, np.inf, ARRAY), "not finite: NaN or infinite in 1 of 24"),
])  # fmt: skip
def test_volumes_in_arrays(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match=rf"a\.npy: .*{message}"):
        read_volume(tmp_path / "a.npy")
