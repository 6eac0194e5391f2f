"""Saving and reading of checkpoints, and damaged files of the old and the new format."""

import argparse
import collections
import io
import random
import warnings

import pytest
import torch

from utils.checkpoints import find_absurd, on_cpu, read_checkpoint, save_checkpoint, weights_due, weights_name
from utils.errors import UserError

CONTENT = {
    "opt": {"lr": 0.1, "gpus": [0, 1], "weight": None, "name": "é"},
    "state_dict": {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(7)},
    "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2, 3, dtype=torch.float16)}}, "x": (1, True)},
    "epoch": 3,
}


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        assert one == other


def test_what_is_saved_is_read_back_by_us_and_by_plain_torch(tmp_path):
    save_checkpoint(tmp_path / "w.pt", CONTENT)
    assert_same(read_checkpoint(tmp_path / "w.pt"), CONTENT)
    assert_same(torch.load(tmp_path / "w.pt"), CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]


def test_copies_share_nothing_and_lie_in_the_usual_layout(tmp_path):
    whole = torch.arange(24.0).reshape(1, 2, 3, 4)
    content = collections.OrderedDict(
        part=whole[:, :1], last=whole.to(memory_format=torch.channels_last), weight=torch.nn.Parameter(whole),
        x=[(whole,)],
    )  # fmt: skip
    copy = on_cpu(content)
    assert type(copy) is dict and type(copy["x"]) is list and type(copy["x"][0]) is tuple
    assert copy["part"].untyped_storage().nbytes() == 12 * 4
    assert copy["last"].is_contiguous() and not content["last"].is_contiguous()
    assert not copy["weight"].requires_grad and type(copy["weight"]) is torch.Tensor
    whole.zero_()
    assert copy["x"][0][0].sum() == copy["last"].sum() == 276


def test_a_part_of_a_large_tensor_is_saved_without_the_rest(tmp_path):
    save_checkpoint(tmp_path / "w.pt", {"part": torch.zeros(100_000)[:5], "step": torch.ones(2, requires_grad=True)})
    assert (tmp_path / "w.pt").stat().st_size < 10_000
    assert not torch.load(tmp_path / "w.pt")["step"].requires_grad


def test_a_checkpoint_that_cannot_be_saved_leaves_the_old_one(tmp_path):
    save_checkpoint(tmp_path / "w.pt", CONTENT)
    with pytest.raises(Exception, match="pickle|lambda"):
        save_checkpoint(tmp_path / "w.pt", {"f": lambda: 0})
    assert_same(read_checkpoint(tmp_path / "w.pt"), CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]
    with pytest.raises(UserError, match=f"cannot write {tmp_path}/none/w.pt: No such file or directory"):
        save_checkpoint(tmp_path / "none" / "w.pt", CONTENT)


def test_a_namespace_is_all_that_the_authors_may_bring(tmp_path):
    torch.save({"opt": argparse.Namespace(lr=0.1)}, tmp_path / "w.pt")
    assert read_checkpoint(tmp_path / "w.pt")["opt"] == argparse.Namespace(lr=0.1)
    for other in (io.StringIO, random.Random(0), argparse.ArgumentParser):
        torch.save({"opt": other}, tmp_path / "w.pt")
        with pytest.raises(UserError, match="w.pt holds more than tensors and plain values; not loaded") as caught:
            read_checkpoint(tmp_path / "w.pt")
        assert "\n" not in str(caught.value)
    # Reading a file of the authors must not make torch.load trust such files for the rest of the process.
    torch.save(argparse.Namespace(), tmp_path / "w.pt")
    with pytest.raises(Exception, match="argparse.Namespace"):
        torch.load(tmp_path / "w.pt")


@pytest.mark.parametrize(("content", "kind"), [(torch.ones(2), "Tensor"), ([1], "list"), (3, "int")])
def test_other_content_is_told(tmp_path, content, kind):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match=f"w.pt: expected a dict of weights, got a {kind}"):
        read_checkpoint(tmp_path / "w.pt")


def test_a_file_that_is_not_there_is_told(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(UserError, match=f"expected a checkpoint file, there is none at {path}"):
            read_checkpoint(str(path))


def damaged(content, count):
    """Copies with one to three wrong bytes, always the same ones."""
    draw = random.Random(0)
    for _ in range(count):
        copy = bytearray(content)
        for _ in range(draw.randint(1, 3)):
            copy[draw.randrange(len(copy))] = draw.randrange(256)
        yield bytes(copy)


@pytest.mark.parametrize("zipped", [True, False])
def test_cut_and_damaged_files_give_content_or_one_line(tmp_path, zipped):
    file = io.BytesIO()
    small = {"state_dict": {"w": torch.arange(6.0)}, "opt": {"lr": 0.1, "x": [1, 2, None, "s"]}, "epoch": 3}
    torch.save(small, file, _use_new_zipfile_serialization=zipped)
    whole = file.getvalue()
    cuts = [whole[:length] for length in range(0, len(whole), 5 if zipped else 1)]
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in [*cuts, *damaged(whole, 600)]:
            (tmp_path / "w.pt").write_bytes(content)
            try:
                assert isinstance(read_checkpoint(tmp_path / "w.pt"), dict)
            except UserError as error:
                refused += 1
                assert f"{tmp_path}/w.pt" in str(error) and "\n" not in str(error)
    assert refused >= len(cuts)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.nan, "b has values that are not finite"),
        (-torch.inf, "b has values that are not finite"),
        (-1e33, "b has values up to 1e+33"),
    ],
)
def test_the_first_entry_with_a_value_that_no_weights_have_is_named(value, words):
    entries = {"a": torch.ones(2, 3), "n": torch.tensor(10**12), "none": torch.zeros(0), "b": torch.ones(3)}
    assert find_absurd({**entries, "half": torch.full((2,), 6e4, dtype=torch.float16)}) is None
    entries["b"][2] = value
    assert find_absurd({**entries, "c": torch.full((1,), torch.nan)}) == words


def test_weights_are_due_every_100_epochs_at_240_and_at_the_last():
    assert [epoch for epoch in range(8) if weights_due(epoch, 7)] == [0, 7]
    assert [epoch for epoch in range(401) if weights_due(epoch, 400)] == [0, 100, 200, 240, 300, 400]


@pytest.mark.parametrize(("ratio", "name"), [(1.0, "1.0"), (0.8, "0.8"), (0.05, "0.05")])
def test_names_are_the_published_ones(ratio, name):
    made = weights_name(model="pcrlv2", dataset="chest", phase="pretask", ratio=ratio, epoch=100)
    assert made == f"pcrlv2_chest_pretask_{name}_100.pt"
